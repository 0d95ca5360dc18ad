defmodule Foundation.Registry.Backends.ETS.Scan do
  @moduledoc false
  # What reads more than one entry, by chunks. All of it runs over ordered tables, whose
  # traversal passes what stays exactly once without fixing the table.

  import Foundation.Registry.Backend, only: [alive?: 1]

  alias Foundation.LiveTable
  alias Foundation.Registry.Backends.ETS.Table

  @chunk 500

  @doc "The keys of `pid`, one an entry."
  def keys(table, pid),
    do: for({row, key} <- Table.own_rows(table, pid), there?(table, row, key), do: key)

  # An index row is there a moment longer than its entry.
  defp there?(%{kind: :unique} = table, {pid, _slot, id}, key),
    do: Table.holder(table, key) == {pid, id}

  defp there?(table, {_pid, slot, id}, _key), do: :ets.member(table.entries, {slot, id})

  @doc "A chunk of all entries. The first cursor is 0."
  def walk(%{kind: :unique} = table, cursor) do
    {rows, cursor} =
      chunk(table.index, [{{{:"$1", :_, :"$2"}, :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}], cursor)

    entries =
      for {pid, id, key} <- rows,
          alive?(pid),
          {_key, ^pid, ^id, value} <- :ets.lookup(table.entries, key),
          do: {key, pid, value}

    {entries, cursor}
  end

  def walk(table, cursor) do
    {entries, cursor} =
      chunk(table.entries, [{{:_, :"$1", :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}], cursor)

    {for({_key, pid, _value} = entry <- entries, alive?(pid), do: entry), cursor}
  end

  @doc "A chunk of the entries under `key`; with `:all` for a cursor, all of them."
  def walk_key(%{kind: :unique} = table, key, _cursor) do
    entries =
      for {_key, pid, _id, value} <- :ets.lookup(table.entries, key),
          alive?(pid),
          do: {pid, value}

    {entries, :done}
  end

  def walk_key(table, key, cursor) do
    head = {{Table.slot(table, key), :_}, :"$1", :"$2", :"$3"}
    spec = [{head, [{:"=:=", :"$1", {:const, key}}], [{{:"$2", :"$3"}}]}]
    {entries, cursor} = chunk(table.entries, spec, cursor)
    {for({pid, _value} = entry <- entries, alive?(pid), do: entry), cursor}
  end

  @doc "Figures of the whole table: O(entries), in the caller."
  def info(table) do
    %{
      size: LiveTable.size(table.entries),
      keys: distinct_keys(table),
      processes: processes(table),
      memory: memory(table),
      drops: :counters.get(table.drops, 1)
    }
  end

  defp memory(table) do
    words = table |> Table.parts() |> Enum.map(&LiveTable.memory/1) |> Enum.sum()
    words * :erlang.system_info(:wordsize)
  end

  # Rows of one process lie beside each other.
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

  # Entries of one hash lie beside each other, and hardly ever have two keys.
  defp distinct_keys(table) do
    spec = [{{{:"$1", :_}, :"$2", :_, :_}, [], [{{:"$1", :"$2"}}]}]

    {count, _hash, _keys} =
      fold(table.entries, spec, {0, nil, []}, fn
        {hash, key}, {count, hash, keys} ->
          if Enum.any?(keys, &(&1 === key)),
            do: {count, hash, keys},
            else: {count + 1, hash, [key | keys]}

        {hash, key}, {count, _hash, _keys} ->
          {count + 1, hash, [key]}
      end)

    count
  end

  defp fold(tid, spec, acc, fun, cursor \\ 0)
  defp fold(_tid, _spec, acc, _fun, :done), do: acc

  defp fold(tid, spec, acc, fun, cursor) do
    {rows, cursor} = chunk(tid, spec, cursor)
    fold(tid, spec, Enum.reduce(rows, acc, fun), fun, cursor)
  end

  defp chunk(tid, spec, :all), do: {:ets.select(tid, spec), :done}
  defp chunk(tid, spec, 0), do: tid |> :ets.select(spec, @chunk) |> continued()
  defp chunk(_tid, _spec, continuation), do: continuation |> :ets.select() |> continued()

  defp continued(:"$end_of_table"), do: {[], :done}
  defp continued({rows, :"$end_of_table"}), do: {rows, :done}
  defp continued({rows, continuation}), do: {rows, continuation}
end
