defmodule Foundation.Cache.Engines do
  @moduledoc false
  # Calls the engine that has a cache of that name. Raises `ArgumentError` where none has.

  alias Foundation.Cache.Backends.ETS
  alias Foundation.Cache.Instance

  def get(cache, key), do: known!(ETS.get(cache, key), cache)
  def begin(cache, key, early), do: known!(ETS.begin(cache, key, early), cache)

  # These go on with a fetch, and the cache may have been stopped meanwhile.
  def begin_again(cache, key, early), do: ETS.begin_again(cache, key, early)
  def cancel(cache, ref), do: ETS.cancel(cache, ref)
  def finish(cache, lease, outcome), do: ETS.finish(cache, lease, outcome)

  def put(cache, key, value, ttl, stale),
    do: known!(ETS.put(cache, key, value, ttl, stale), cache)

  def delete(cache, key), do: known!(ETS.delete(cache, key), cache)
  def clear(cache), do: known!(ETS.clear(cache), cache)
  def expire(cache), do: ETS.expire(cache)
  def size(cache), do: known!(ETS.size(cache), cache)
  def stats(cache), do: known!(ETS.stats(cache), cache)
  def walk(cache, cursor), do: known!(ETS.walk(cache, cursor), cache)

  defp known!(nil, cache), do: Instance.unknown!(cache)
  defp known!(answer, _cache), do: answer
end
