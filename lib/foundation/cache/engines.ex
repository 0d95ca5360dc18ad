defmodule Foundation.Cache.Engines do
  @moduledoc false
  # Calls the engine that has a cache of that name. Raises `ArgumentError` where none has.

  alias Foundation.Cache.Backends.{ETS, Native}
  alias Foundation.Cache.Instance

  def get(cache, key) when is_atom(cache),
    do: Native.get(cache, key) || known!(ETS.get(cache, key), cache)

  def get(cache, _key), do: Instance.unknown!(cache)

  def begin(cache, key, early) when is_atom(cache),
    do: Native.begin(cache, key, early) || known!(ETS.begin(cache, key, early), cache)

  def begin(cache, _key, _early), do: Instance.unknown!(cache)

  # These go on with a fetch, and the cache may have been stopped meanwhile.
  def begin_again(cache, key, early),
    do: Native.begin_again(cache, key, early) || ETS.begin_again(cache, key, early)

  def cancel(cache, ref) when is_integer(ref), do: Native.cancel(cache, ref)
  def cancel(cache, ref), do: ETS.cancel(cache, ref)

  def finish(cache, key, lease, outcome) when is_integer(lease),
    do: Native.finish(cache, key, lease, outcome)

  def finish(cache, key, lease, outcome), do: ETS.finish(cache, key, lease, outcome)

  def put(cache, key, value, ttl, stale) when is_atom(cache) do
    Native.put(cache, key, value, ttl, stale) ||
      known!(ETS.put(cache, key, value, ttl, stale), cache)
  end

  def put(cache, _key, _value, _ttl, _stale), do: Instance.unknown!(cache)

  def delete(cache, key) when is_atom(cache),
    do: Native.delete(cache, key) || known!(ETS.delete(cache, key), cache)

  def delete(cache, _key), do: Instance.unknown!(cache)

  def clear(cache) when is_atom(cache),
    do: Native.clear(cache) || known!(ETS.clear(cache), cache)

  def clear(cache), do: Instance.unknown!(cache)

  def expire(cache), do: Native.expire(cache) || ETS.expire(cache)

  def size(cache) when is_atom(cache),
    do: Native.size(cache) || known!(ETS.size(cache), cache)

  def size(cache), do: Instance.unknown!(cache)

  def stats(cache) when is_atom(cache),
    do: Native.stats(cache) || known!(ETS.stats(cache), cache)

  def stats(cache), do: Instance.unknown!(cache)

  # Both begin with 0. Later a cursor of the native engine is an integer, and one of ETS is not.
  def walk(cache, cursor) when is_atom(cache) and is_integer(cursor),
    do: Native.walk(cache, cursor) || known!(ETS.walk(cache, cursor), cache)

  def walk(cache, cursor) when is_atom(cache), do: known!(ETS.walk(cache, cursor), cache)
  def walk(cache, _cursor), do: Instance.unknown!(cache)

  defp known!(nil, cache), do: Instance.unknown!(cache)
  defp known!(answer, _cache), do: answer
end
