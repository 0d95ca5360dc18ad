defmodule Foundation.Cache.Backends.Native do
  @moduledoc false
  # The native engine: every call runs in the caller. The library has no owner of a cache. The owner
  # process stands for it in the supervision tree, and `Foundation.Cache.Instance` stops the cache
  # when no other owner adopts it.

  @behaviour Foundation.Cache.Backend

  alias Foundation.Native

  @doc "Stops the caches that an earlier start of the application left in the library."
  @spec stop_all() :: :ok
  def stop_all, do: Enum.each(Native.cache_names(), &Native.cache_stop/1)

  @impl true
  defdelegate get(name, key), to: Native, as: :cache_get

  @impl true
  def begin(name, key, early), do: checked(Native.cache_begin(name, key, early))

  @impl true
  def begin_again(name, key, early), do: checked(Native.cache_begin_again(name, key, early))

  @impl true
  defdelegate cancel(name, id), to: Native, as: :cache_cancel

  @impl true
  defdelegate finish(name, key, lease, outcome), to: Native, as: :cache_finish

  @impl true
  def put(name, key, value, ttl, stale),
    do: checked(Native.cache_put(name, key, value, ttl, stale))

  @impl true
  defdelegate delete(name, key), to: Native, as: :cache_delete

  @impl true
  def clear(name), do: checked(Native.cache_clear(name))

  @impl true
  def expire(name), do: checked(Native.cache_expire(name))

  @impl true
  defdelegate size(name), to: Native, as: :cache_size

  @impl true
  defdelegate stats(name), to: Native, as: :cache_stats

  @impl true
  defdelegate walk(name, cursor), to: Native, as: :cache_walk

  defp checked(:system_limit), do: :erlang.error(:system_limit)
  defp checked(answer), do: answer

  @impl true
  def open(config, _adopt_timeout) do
    %{name: name, max_bytes: max_bytes, max_entries: max_entries} = config

    case Native.cache_open(name, max_bytes, max_entries, config.early || 0, config.load_timeout) do
      :system_limit -> {:error, :system_limit}
      _created_or_adopted -> {:ok, nil}
    end
  end

  # It sends its owner nothing.
  @impl true
  def handle_request(_request, state), do: {nil, state}

  @impl true
  def handle_message(_message, state), do: state

  @impl true
  def stop(name, _cells), do: Native.cache_stop(name)
end
