defmodule Foundation.Registry.Backends.ETS.Scan do
  @moduledoc false
  # Reads of more than one key.

  import Foundation.Registry.Backend, only: [alive?: 1]

  alias Foundation.LiveTable
  alias Foundation.Registry.Backends.ETS.Table

  @chunk 500
  @end_of_table :"$end_of_table"

  @doc "Returns the keys of `pid`, one for each entry."
  def keys(%{kind: :unique} = table, pid) do
    for {{_pid, _slot, id}, key} <- Table.own_rows(table, pid), id?(table, key, id), do: key
  end

  # An index row stays a moment longer than its entry, which is the only inaccuracy here.
  def keys(table, pid),
    do: :ets.select(table.index, [{{{pid, :_, :_}, :"$1"}, [], [:"$1"]}])

  # A refused registration has an index row for a moment, but never an entry.
  defp id?(table, key, id) do
    :ets.lookup_element(table.entries, key, 4) == id
  catch
    :error, :badarg -> if Table.there?(table), do: false, else: raise(ArgumentError)
  end

  @doc "Streams the entries as lists of `{key, pid, value}`. The table is fixed meanwhile."
  def chunks(%{entries: entries} = table) do
    head = Table.row(table, :"$1", :"$2", :"$3", :_)
    spec = [{head, [], [{{:"$1", :"$2", :"$3"}}]}]

    Stream.resource(
      fn -> Table.guarded(table, fn _table -> :ets.safe_fixtable(entries, true) end) end,
      fn
        :done -> {:halt, :done}
        true -> Table.guarded(table, fn _table -> chunk(:ets.select(entries, spec, @chunk)) end)
        rest -> Table.guarded(table, fn _table -> chunk(:ets.select(rest)) end)
      end,
      fn _rest -> Table.there?(table) and :ets.safe_fixtable(entries, false) end
    )
  end

  defp chunk(@end_of_table), do: {:halt, :done}
  defp chunk({rows, @end_of_table}), do: {[living(rows)], :done}
  defp chunk({rows, rest}), do: {[living(rows)], rest}

  defp living(rows), do: for({_key, pid, _value} = entry <- rows, alive?(pid), do: entry)

  @doc "Returns figures of the whole table: O(entries), in the caller."
  def info(table) do
    %{
      size: LiveTable.size(table.entries),
      keys: distinct_keys(table),
      processes: processes(table),
      memory: memory(table),
      drops: Table.drops(table)
    }
  end

  defp memory(table) do
    words = table |> Table.parts() |> Enum.map(&LiveTable.memory/1) |> Enum.sum()
    words * :erlang.system_info(:wordsize)
  end

  # The rows of one process are adjacent.
  defp processes(table) do
    spec = [{{{:"$1", :_, :_}, :_}, [], [:"$1"]}]

    {count, _last} =
      fold(table.index, spec, {0, nil}, fn
        pid, {count, pid} -> {count, pid}
        pid, {count, _last} -> {if(alive?(pid), do: count + 1, else: count), pid}
      end)

    count
  end

  defp distinct_keys(%{kind: :unique} = table), do: LiveTable.size(table.entries)

  # In a bag, `:ets.next/2` returns the next key.
  defp distinct_keys(%{entries: entries}) do
    :ets.safe_fixtable(entries, true)

    try do
      # That atom may also be a key. Then its first return is the key.
      key? = :ets.member(entries, @end_of_table)
      count_keys(entries, :ets.first(entries), 0, key?)
    after
      :ets.safe_fixtable(entries, false)
    end
  end

  defp count_keys(_entries, @end_of_table, count, false), do: count

  defp count_keys(entries, key, count, key?) do
    key? = key? and key != @end_of_table
    count_keys(entries, :ets.next(entries, key), count + 1, key?)
  end

  defp fold(tid, spec, acc, fun),
    do: tid |> :ets.select(spec, @chunk) |> fold_chunk(acc, fun)

  defp fold_chunk(@end_of_table, acc, _fun), do: acc
  defp fold_chunk({rows, @end_of_table}, acc, fun), do: Enum.reduce(rows, acc, fun)

  defp fold_chunk({rows, rest}, acc, fun),
    do: rest |> :ets.select() |> fold_chunk(Enum.reduce(rows, acc, fun), fun)
end
