defmodule Foundation.Registry.Backends.ETS do
  @moduledoc false
  # The registry in pure Elixir over ETS (see `Table` for its layout). Reads and writes happen in
  # the caller. Only `Foundation.Registry.Monitor` cleans up after dead processes.

  @behaviour Foundation.Registry.Backend

  import Foundation.Registry.Backend, only: [alive?: 1]

  alias Foundation.LiveTable
  alias Foundation.Registry.{Backend, Cleanup, MatchSpec, Monitor, TableHolder}
  alias Foundation.Registry.Backends.ETS.{Scan, Select, Table}

  ## Ownership

  @impl true
  def start(options), do: TableHolder.claim(options)

  @impl true
  def stop(_name, %Table{} = table), do: Table.retire(table)

  @impl true
  def config(name) do
    table = get!(name)
    {table.kind, table.partitions, table.listeners, table.owner}
  end

  ## Writing

  @impl true
  def register(name, pid, key, value) do
    on(name, fn table ->
      cond do
        pid != self() and not alive?(pid) -> {:error, :not_alive}
        full?(table) and not held?(table, key) -> refuse(table)
        true -> table |> insert(pid, key, value) |> registered(table)
      end
    end)
  end

  defp insert(table, pid, key, value) do
    watch(table, pid)
    id = :erlang.unique_integer([:monotonic])
    row = {pid, Table.slot(table, key), id}
    :ets.insert(table.index, {row, key})

    case put_entry(table, Table.row(table, key, pid, value, id), key) do
      :ok ->
        confirm(table, row, key)

      error ->
        :ets.delete(table.index, row)
        error
    end
  end

  defp put_entry(%{kind: :unique} = table, row, key) do
    if :ets.insert_new(table.entries, row) do
      :ok
    else
      case Table.holder(table, key) do
        :none ->
          put_entry(table, row, key)

        {holder, held} ->
          if alive?(holder) do
            {:error, {:already_registered, holder}}
          else
            evict(table, holder, key, held)
            put_entry(table, row, key)
          end
      end
    end
  end

  defp put_entry(table, row, _key) do
    :ets.insert(table.entries, row)
    :ok
  end

  # The dead owner's entry counts as cleaned up, unless another process has removed it meanwhile.
  defp evict(table, holder, key, id) do
    Cleanup.count(table.name, Table.drop(table, key, [id]))
    :ets.delete(table.index, {holder, 0, id})
  end

  # The other process may have died, and been cleaned up, before its entry was inserted. The
  # clean-up deletes the registrant first and then looks for entries. This call inserts the entry
  # first and then looks for the registrant. So one of the two finds the entry.
  defp confirm(_table, {pid, _slot, _id}, _key) when pid == self(), do: :ok

  defp confirm(table, {pid, _slot, id} = row, key) do
    if not :ets.member(table.registrants, pid) and Table.drop(table, key, [id]) == 1 do
      :ets.delete(table.index, row)
      {:error, :not_alive}
    else
      :ok
    end
  end

  # The monitor marks a registrant that it watches. Until then each registration asks for it again.
  # It leaves a trace first, which a monitor that starts in between finds.
  defp watch(table, pid) do
    case :ets.lookup(table.registrants, pid) do
      [{_pid, monitoring, _ref}] when is_pid(monitoring) ->
        :ok

      _unwatched ->
        :ets.insert_new(table.registrants, {pid, nil, nil})
        Monitor.watch(table.name, pid)
    end
  end

  defp registered(:ok, %{listeners: []} = table), do: {:ok, table.owner}
  defp registered(:ok, table), do: {:notify, table.owner, table.listeners}
  defp registered(error, _table), do: error

  defp full?(%{max_entries: :infinity}), do: false
  defp full?(table), do: LiveTable.size(table.entries) >= table.max_entries

  # Then no entry is added: the registration is refused, or replaces a dead owner's entry.
  defp held?(%{kind: :unique} = table, key), do: :ets.member(table.entries, key)
  defp held?(_duplicate, _key), do: false

  defp refuse(table) do
    Table.count_drop(table)
    {:error, :system_limit}
  end

  @impl true
  def unregister(name, pid, key) do
    on(name, fn table ->
      with [_ | _] = ids <- Table.own_ids(table, key, pid), do: Table.remove(table, key, pid, ids)
      if table.listeners == [], do: :ok, else: {:notify, table.listeners}
    end)
  end

  @impl true
  def remove(name, key, pid, ids), do: on(name, &Table.remove(&1, key, pid, ids))

  @impl true
  def replace(name, key, pid, expected, new) do
    on(name, fn
      %{kind: :unique} = table ->
        cond do
          Table.swap(table, key, pid, expected, new) -> :ok
          match?({^pid, _id}, Table.holder(table, key)) -> :stale
          true -> :error
        end

      _duplicate ->
        :duplicate
    end)
  end

  @impl true
  def update_value(name, key, callback) do
    table = get!(name)

    case Table.guarded(table, &read_own(&1, key)) do
      {:ok, old, version} ->
        new = callback.(old)
        written? = Table.guarded(table, &Table.write_own(&1, key, version, new))
        if written?, do: {new, old}, else: :error

      none ->
        none
    end
  end

  defp read_own(%{kind: :unique} = table, key), do: Table.read_own(table, key)
  defp read_own(table, _key), do: {:not_unique, table.kind}

  ## Reading

  @doc "Returns the entries under `key`, in the order of their registration."
  @spec lookup(atom, term) :: [{pid, term}]
  def lookup(name, key), do: on(name, &entries_of(&1, key))

  @impl true
  def lookup_many(name, keys) do
    # Raises for an improper list, as the native engine does.
    _proper = length(keys)
    on(name, fn table -> Enum.map(keys, &entries_of(table, &1)) end)
  end

  @doc "The process under a unique `key`; `:duplicate` where keys are not unique. O(1)."
  @spec whereis(atom, term) :: pid | :undefined | :duplicate
  def whereis(name, key) do
    on(name, fn
      %{kind: :unique} = table ->
        # Read only one element of the row, because values may be large.
        case element(table, key, 2) do
          pid when is_pid(pid) -> if alive?(pid), do: pid, else: :undefined
          [] -> :undefined
        end

      _duplicate ->
        :duplicate
    end)
  end

  @doc "Returns what `pid` registered under `key`, in order. O(entries under the key)."
  @spec values(atom, term, pid) :: [term]
  def values(name, key, pid) do
    on(name, fn table ->
      if alive?(pid), do: own_values(table, key, pid), else: []
    end)
  end

  defp own_values(%{kind: :unique} = table, key, pid) do
    case :ets.lookup(table.entries, key) do
      [{_key, ^pid, value, _id}] -> [value]
      _anothers_or_none -> []
    end
  end

  # One copy of the key's pairs costs less than a search for the process's entries by the index.
  defp own_values(table, key, pid), do: for({^pid, value} <- element(table, key, 2), do: value)

  @impl true
  def entries(name, key, pid) do
    on(name, fn table ->
      if alive?(pid), do: own_entries(table, key, pid), else: []
    end)
  end

  @impl true
  def keys(name, pid) do
    on(name, fn table ->
      if alive?(pid), do: Scan.keys(table, pid), else: []
    end)
  end

  @doc "How many entries there are. O(1); the dead may be counted for some milliseconds."
  @spec count(atom) :: non_neg_integer
  def count(name), do: on(name, &LiveTable.size(&1.entries))

  @impl true
  def info(name), do: on(name, &Scan.info/1)

  @impl true
  def chunks(name), do: name |> get!() |> Scan.chunks()

  @impl true
  def key_chunks(name, key), do: [lookup(name, key)]

  @impl true
  def match(name, key, pattern, guards) do
    if everything?(pattern, guards),
      do: lookup(name, key),
      else: MatchSpec.match(__MODULE__, name, key, pattern, guards)
  end

  defp everything?(pattern, guards), do: guards == [] and pattern == :_

  @impl true
  def count_match(name, key, pattern, guards) do
    with true <- Table.plain?(key),
         {:ok, count} <- on(name, &Select.count(&1, [{{key, :_, pattern}, guards, [true]}])) do
      count
    else
      _elsewhere -> MatchSpec.count_match(__MODULE__, name, key, pattern, guards)
    end
  end

  @impl true
  def select(name, spec, function) do
    case on(name, &Select.run(&1, spec)) do
      {:ok, results} -> results
      :error -> MatchSpec.select(__MODULE__, name, spec, function)
    end
  end

  @impl true
  def count_select(name, spec, function) do
    case on(name, &Select.count(&1, spec)) do
      {:ok, count} -> count
      :error -> MatchSpec.count_select(__MODULE__, name, spec, function)
    end
  end

  @impl true
  def broadcast(name, key, message) do
    entries = lookup(name, key)
    for {pid, _value} <- entries, do: send(pid, message)
    length(entries)
  end

  @doc "Metadata. O(1)."
  @spec meta(atom, term) :: {:ok, term} | :error
  def meta(name, key) do
    table = Table.get(name) || Backend.unknown_meta!(name)

    Table.guarded(table, fn table ->
      case :ets.lookup(table.meta, key) do
        [{_key, value}] -> {:ok, value}
        [] -> :error
      end
    end)
  end

  @doc "Stores metadata. O(1)."
  @spec put_meta(atom, term, term) :: :ok
  def put_meta(name, key, value) do
    on(name, &:ets.insert(&1.meta, {key, value}))
    :ok
  end

  @impl true
  def delete_meta(name, key) do
    on(name, &:ets.delete(&1.meta, key))
    :ok
  end

  defp entries_of(%{kind: :unique} = table, key) do
    case :ets.lookup(table.entries, key) do
      [{_key, pid, value, _id}] -> if alive?(pid), do: [{pid, value}], else: []
      [] -> []
    end
  end

  defp entries_of(table, key) do
    pairs = element(table, key, 2)

    if all_alive?(pairs),
      do: pairs,
      else: for({pid, _value} = pair <- pairs, alive?(pid), do: pair)
  end

  # A dead process is rare, and without one the list is returned as it is.
  defp all_alive?([{pid, _value} | pairs]), do: alive?(pid) and all_alive?(pairs)
  defp all_alive?([]), do: true

  # Raises if the key or the table does not exist.
  defp element(table, key, position) do
    :ets.lookup_element(table.entries, key, position)
  catch
    :error, :badarg -> if Table.there?(table), do: [], else: raise(ArgumentError)
  end

  defp own_entries(%{kind: :unique} = table, key, pid) do
    case :ets.lookup(table.entries, key) do
      [{_key, ^pid, value, id}] -> [{id, value}]
      _anothers_or_none -> []
    end
  end

  defp own_entries(table, key, pid),
    do: for({_key, {^pid, value}, id} <- :ets.lookup(table.entries, key), do: {id, value})

  ## Finding the table

  defp get!(name), do: Table.get(name) || Backend.unknown!(name)

  defp on(name, fun), do: name |> get!() |> Table.guarded(fun)
end
