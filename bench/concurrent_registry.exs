defmodule Bench.ConcurrentRegistry do
  @moduledoc false
  # A concurrent table against an ETS table that is used directly. ETS has no update with a
  # function, so that row compares with this library's ETS engine.

  alias Bench.Row
  alias Foundation.ConcurrentRegistry, as: Table

  @sizes [1_000, 100_000]

  def rows do
    for {name, what, theirs, least, run} <- [
          {:table_get, "get a value of a concurrent table", "ETS", 1.3, &get/3},
          {:table_put, "put a value into a concurrent table", "ETS", 1.1, &put/3},
          {:table_update, "update a value of a concurrent table", "the same on ETS", 4, &update/3}
        ] do
      %Row{
        name: name,
        what: what,
        theirs: theirs,
        sizes: @sizes,
        quick: [1_000],
        target: {:at_least, least},
        run: fn size, context ->
          for kind <- [:integer, :binary],
              do: %{run.(kind, size, context) | variant: "#{kind}"}
        end
      }
    end
  end

  defp get(kind, size, context) do
    with_tables(kind, size, fn keys, table, ets ->
      each(keys, context, &Table.get(table, &1), fn key -> value(:ets.lookup(ets, key)) end)
    end)
  end

  defp put(kind, size, context) do
    with_tables(kind, size, fn keys, table, ets ->
      each(keys, context, &Table.put(table, &1, 1), fn key ->
        :ets.insert(ets, {key, 1})
        :ok
      end)
    end)
  end

  defp update(kind, size, context) do
    with_tables(kind, size, fn keys, table, _ets ->
      other = Table.new(engine: :ets)
      for key <- keys, do: Table.put(other, key, 1)
      same = & &1
      each(keys, context, &Table.update(table, &1, 0, same), &Table.update(other, &1, 0, same))
    end)
  end

  defp with_tables(kind, size, fun) do
    keys = Bench.keys(kind, size)
    table = Table.new()
    ets = :ets.new(__MODULE__, [:public, read_concurrency: true, write_concurrency: true])

    for key <- keys do
      Table.put(table, key, 1)
      :ets.insert(ets, {key, 1})
    end

    fun.(keys, table, ets)
  after
    :erlang.garbage_collect()
  end

  defp each(keys, context, ours, theirs) do
    for key <- Enum.take_every(keys, max(1, div(length(keys), 1_000))) do
      Bench.check!("ConcurrentRegistry", ours.(key), theirs.(key))
    end

    Bench.with_rounds(keys, context, fn keys_of ->
      Bench.pinned(fn ->
        Bench.pair(context, &Bench.each(keys_of.(&1), ours), &Bench.each(keys_of.(&1), theirs))
      end)
    end)
  end

  defp value([{_key, value}]), do: value
end
