Code.require_file("support/values.exs", __DIR__)

defmodule Bench.SurfaceTable do
  @moduledoc false
  # Every function of `ConcurrentRegistry` over the values that clients keep, against the call of
  # ETS that a client would write. An update is a compare-and-swap on both sides.
  #
  # The size is the number of keys.

  alias Bench.{Row, Values}
  alias Foundation.ConcurrentRegistry, as: Table

  def rows do
    [
      %Row{
        name: :surface_table,
        what: "each function of a concurrent table, over the values of clients",
        theirs: "ETS",
        sizes: [1_000],
        quick: [100],
        target: {:at_least, 0.9},
        mean: {:at_least, 1.3},
        run: &surface/2
      }
    ]
  end

  defp surface(size, context), do: Stream.flat_map(Values.all(), &of_value(&1, size, context))

  defp of_value({name, value}, size, context) do
    next = Values.next(value)

    Bench.pinned(fn ->
      table = Table.new()
      ets = :ets.new(__MODULE__, [:public, read_concurrency: true, write_concurrency: true])

      for key <- 1..size do
        Table.put(table, key, value)
        :ets.insert(ets, {key, value})
      end

      calls = [
        {"get", fn -> Table.get(table, 1) end, fn -> get(ets, 1) end},
        {"put", fn -> Table.put(table, 2, value) end, fn -> put(ets, 2, value) end},
        {"put_new, delete", fn -> put_new_delete(table, value) end,
         fn -> ets_put_new_delete(ets, value) end},
        {"update", fn -> Table.update(table, 3, nil, fn _old -> next end) end,
         fn -> update(ets, 3, fn _old -> next end) end},
        {"size", fn -> Table.size(table) end, fn -> :ets.info(ets, :size) end},
        {"stream", fn -> table |> Table.stream() |> Enum.reduce(0, &count/2) end,
         fn -> :ets.foldl(&count/2, 0, ets) end}
      ]

      for {call, ours, theirs} <- calls,
          variant = "#{call}: #{name}",
          context.only == nil or String.contains?(variant, context.only) do
        Bench.check!(variant, ours.(), theirs.())
        Bench.repeated(context, ours, theirs, variant: variant)
      end
    end)
  end

  defp get(ets, key) do
    case :ets.lookup(ets, key) do
      [{_key, value}] -> value
      [] -> nil
    end
  end

  defp put(ets, key, value) do
    :ets.insert(ets, {key, value})
    :ok
  end

  defp put_new_delete(table, value) do
    true = Table.put_new(table, 0, value)
    Table.delete(table, 0)
  end

  defp ets_put_new_delete(ets, value) do
    true = :ets.insert_new(ets, {0, value})
    :ets.delete(ets, 0)
    :ok
  end

  defp update(ets, key, fun) do
    [{_key, old}] = :ets.lookup(ets, key)
    new = fun.(old)
    guard = {:"=:=", :"$1", {:const, old}}
    spec = [{{key, :"$1"}, [guard], [{{key, {:const, new}}}]}]
    if :ets.select_replace(ets, spec) == 1, do: new, else: update(ets, key, fun)
  end

  defp count({_key, _value}, sum), do: sum + 1
end
