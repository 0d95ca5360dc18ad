defmodule Foundation.ConcurrentTable.Backends.ETS do
  @moduledoc false
  # A public ETS table of `{key, version, value}`.
  #
  # Each write gives its row a version that no other row of this node ever has. So a row that still
  # has the version that was read has not been written since.

  @behaviour Foundation.ConcurrentTable.Backend

  # Rows read at once by a walk: some 20 µs.
  @chunk 100

  @options [:set, :public, read_concurrency: true, write_concurrency: true]

  @impl true
  def new, do: :ets.new(__MODULE__, @options)

  @impl true
  def new_kept(name), do: :ets.new(__MODULE__, [{:heir, self(), name} | @options])

  @impl true
  def parts(table), do: [table]

  @impl true
  def there?(table), do: :ets.info(table, :id) != :undefined

  @impl true
  def destroy(table) do
    if there?(table), do: :ets.delete(table)
    :ok
  end

  @impl true
  def put(table, key, value) do
    :ets.insert(table, {key, version(), value})
    :ok
  end

  @impl true
  def put_new(table, key, value), do: :ets.insert_new(table, {key, version(), value})

  @impl true
  def get(table, key, default) do
    case :ets.lookup(table, key) do
      [{_key, _version, value}] -> value
      [] -> default
    end
  end

  @impl true
  def fetch(table, key) do
    case :ets.lookup(table, key) do
      # With the key as it is stored: until OTP 26 -0.0 is equal to 0.0, and yet no pattern for it.
      [{stored, version, value}] -> {{stored, version}, value}
      [] -> :error
    end
  end

  @impl true
  def replace(table, _key, {stored, version}, value) do
    row = {{:element, 1, :"$_"}, version(), {:const, value}}
    1 == :ets.select_replace(table, [{{pattern(stored), version, :_}, [], [{row}]}])
  end

  @impl true
  def delete(table, key) do
    :ets.delete(table, key)
    :ok
  end

  @impl true
  def size(table) do
    case :ets.info(table, :size) do
      :undefined -> raise ArgumentError, "the table's process has ended, and the table with it"
      size -> size
    end
  end

  @impl true
  def stream(table) do
    Stream.resource(
      fn ->
        # Without it a table that grows or shrinks is walked with gaps and repetitions.
        :ets.safe_fixtable(table, true)
        :first
      end,
      fn
        :first ->
          chunk(:ets.select(table, [{{:"$1", :_, :"$2"}, [], [{{:"$1", :"$2"}}]}], @chunk))

        continuation ->
          chunk(:ets.select(continuation))
      end,
      fn _continuation -> :ets.safe_fixtable(table, false) end
    )
  end

  defp chunk({rows, continuation}), do: {rows, continuation}
  defp chunk(:"$end_of_table"), do: {:halt, :done}

  # The key finds the row, the version identifies it. ETS takes a key in a pattern as it is, maps
  # too, but for the atoms that mean something in a pattern. A key with one of those in it is
  # found by its version alone, in O(size of the table).
  defp pattern(key), do: if(literal?(key), do: key, else: :_)

  defp literal?(:_), do: false

  defp literal?(atom) when is_atom(atom) do
    case Atom.to_string(atom) do
      "$" <> _ -> false
      _ -> true
    end
  end

  defp literal?([head | tail]), do: literal?(head) and literal?(tail)
  defp literal?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> literal?()

  defp literal?(map) when is_map(map) do
    Enum.all?(:maps.to_list(map), fn {key, value} -> literal?(key) and literal?(value) end)
  end

  defp literal?(_other), do: true

  defp version, do: :erlang.unique_integer()
end
