defmodule Foundation.ConcurrentTable.Backends.Native do
  @moduledoc false
  # A table of the native library, by its reference.

  @behaviour Foundation.ConcurrentTable.Backend

  alias Foundation.Native

  @impl true
  def new, do: made!(Native.concurrent_table_new())

  @impl true
  def new_kept(_name), do: made!(Native.concurrent_table_new_unowned())

  defp made!(answer) do
    done!(answer) ||
      raise ArgumentError, "expected :engine to be :ets, because no native library is loaded"
  end

  @impl true
  def parts(_table), do: []

  @impl true
  def there?(table) do
    _size = Native.concurrent_table_size(table)
    true
  rescue
    # It has ended, or the library is gone.
    ArgumentError -> false
  end

  @impl true
  def destroy(table), do: Native.concurrent_table_end(table)

  @impl true
  def put(table, key, value), do: done!(Native.concurrent_table_put(table, key, value))

  @impl true
  def put_new(table, key, value), do: done!(Native.concurrent_table_put_new(table, key, value))

  @impl true
  def get(table, key, default), do: Native.concurrent_table_get(table, key, default)

  @impl true
  def fetch(table, key), do: Native.concurrent_table_fetch(table, key)

  @impl true
  def replace(table, key, version, value),
    do: done!(Native.concurrent_table_replace(table, key, version, value))

  @impl true
  def delete(table, key), do: Native.concurrent_table_delete(table, key)

  @impl true
  def size(table), do: Native.concurrent_table_size(table)

  @impl true
  def stream(table) do
    Stream.resource(
      fn -> 0 end,
      fn
        :done -> {:halt, :done}
        cursor -> Native.concurrent_table_walk(table, cursor)
      end,
      fn _cursor -> :ok end
    )
  end

  # There was no memory, as when the VM itself runs out of it.
  defp done!({:error, :system_limit}), do: :erlang.error(:system_limit)
  defp done!(answer), do: answer
end
