defmodule Foundation.Registry.Backends.ETS do
  @moduledoc false
  # The registry in pure Elixir over ETS (see `Table` for its layout). Reads and writes
  # happen in the caller; only clean-up after a dead process is done by
  # `Foundation.Registry.Monitor`.

  @behaviour Foundation.Registry.Backend

  import Foundation.Registry.Backend, only: [alive?: 1]

  alias Foundation.LiveTable
  alias Foundation.Registry.{Backend, Cleanup, Monitor, TableHolder}
  alias Foundation.Registry.Backends.ETS.{Scan, Table}
  alias Foundation.RetryingCall

  ## Ownership

  @impl true
  def start(options), do: RetryingCall.call(TableHolder, {:claim, options})

  @impl true
  def stop(_name, %Table{} = table) do
    Table.withdraw(table)
    Monitor.forget(table)
    Table.destroy(table)
  end

  @impl true
  def config(name) do
    table = fetch!(name)
    {table.kind, table.partitions, table.listeners, table.owner}
  end

  ## Writing

  @impl true
  def register(name, pid, key, value) do
    on(name, fn table ->
      cond do
        not alive?(pid) -> {:error, :not_alive}
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

    case put_entry(table, pid, key, id, value) do
      :ok ->
        confirm(table, row, key)

      error ->
        :ets.delete(table.index, row)
        error
    end
  end

  defp put_entry(%{kind: :unique} = table, pid, key, id, value) do
    if :ets.insert_new(table.entries, {key, pid, id, value}) do
      :ok
    else
      case Table.holder(table, key) do
        :none ->
          put_entry(table, pid, key, id, value)

        {holder, held} ->
          if alive?(holder) do
            {:error, {:already_registered, holder}}
          else
            evict(table, holder, key, held)
            put_entry(table, pid, key, id, value)
          end
      end
    end
  end

  defp put_entry(table, pid, key, id, value) do
    :ets.insert(table.entries, {{Table.slot(table, key), id}, key, pid, value})
    :ok
  end

  # The dead one's entry counts as cleaned up, if nobody else has removed it meanwhile.
  defp evict(table, holder, key, id) do
    if Table.drop(table, key, id), do: Cleanup.count(table.name, 1)
    :ets.delete(table.index, {holder, 0, id})
  end

  # Another process may have died, and been cleaned up after, before its entry was there. The
  # clean-up deletes the registrant first and then looks for entries; here it is the other
  # way round, so one of the two finds the entry.
  defp confirm(_table, {pid, _slot, _id}, _key) when pid == self(), do: :ok

  defp confirm(table, {pid, _slot, id} = row, key) do
    if not :ets.member(table.registrants, pid) and Table.drop(table, key, id) do
      :ets.delete(table.index, row)
      {:error, :not_alive}
    else
      :ok
    end
  end

  # The monitor marks a registrant as its own. Until it has, each registration asks for it
  # again, after leaving a mark that a monitor which starts in between would find.
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

  # Then nothing is added: it is refused for its holder, or takes a dead one's place.
  defp held?(%{kind: :unique} = table, key), do: :ets.member(table.entries, key)
  defp held?(_duplicate, _key), do: false

  defp refuse(table) do
    :counters.add(table.drops, 1, 1)
    {:error, :system_limit}
  end

  @impl true
  def unregister(name, pid, key) do
    on(name, fn table ->
      for id <- own_ids(table, key, pid), do: remove_one(table, key, pid, id)
      if table.listeners == [], do: :ok, else: {:notify, table.listeners}
    end)
  end

  @impl true
  def remove(name, key, pid, ids) do
    on(name, fn table -> Enum.count(ids, &remove_one(table, key, pid, &1)) end)
  end

  defp remove_one(table, key, pid, id) do
    removed? = Table.drop(table, key, id)
    :ets.delete(table.index, {pid, Table.slot(table, key), id})
    removed?
  end

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

  ## Reading

  @impl true
  def lookup(name, key), do: on(name, &entries_of(&1, key))

  @impl true
  def lookup_many(name, keys) do
    # Raises for an improper list what the native engine does.
    _proper = length(keys)
    on(name, fn table -> Enum.map(keys, &entries_of(table, &1)) end)
  end

  @doc "The process under a unique `key`; `:duplicate` where keys are not unique. O(1)."
  @spec whereis(atom, term) :: pid | :undefined | :duplicate
  def whereis(name, key) do
    on(name, fn
      %{kind: :unique} = table ->
        # One element is all that is copied: values may be large.
        try do
          :ets.lookup_element(table.entries, key, 2)
        catch
          :error, :badarg -> if Table.there?(table), do: :undefined, else: Backend.unknown!(name)
        else
          pid -> if alive?(pid), do: pid, else: :undefined
        end

      _duplicate ->
        :duplicate
    end)
  end

  @impl true
  def values(name, key, pid), do: for({_id, value} <- entries(name, key, pid), do: value)

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
  def walk(name, cursor), do: on(name, &Scan.walk(&1, cursor))

  @impl true
  def walk_key(name, key, cursor), do: on(name, &Scan.walk_key(&1, key, cursor))

  @impl true
  def broadcast(name, key, message) do
    entries = lookup(name, key)
    for {pid, _value} <- entries, do: send(pid, message)
    length(entries)
  end

  @doc "Metadata. O(1)."
  @spec meta(atom, term) :: {:ok, term} | :error
  def meta(name, key) do
    on(name, fn table ->
      case :ets.lookup(table.meta, key) do
        [{_key, value}] -> {:ok, value}
        [] -> :error
      end
    end)
  end

  @impl true
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
      [{_key, pid, _id, value}] -> if alive?(pid), do: [{pid, value}], else: []
      [] -> []
    end
  end

  defp entries_of(table, key) do
    {entries, :done} = Scan.walk_key(table, key, :all)
    entries
  end

  defp own_entries(%{kind: :unique} = table, key, pid) do
    case :ets.lookup(table.entries, key) do
      [{_key, ^pid, id, value}] -> [{id, value}]
      _anothers_or_none -> []
    end
  end

  defp own_entries(table, key, pid) do
    slot = Table.slot(table, key)

    for id <- own_ids(table, key, pid),
        {_row, _key, _pid, value} <- :ets.lookup(table.entries, {slot, id}),
        do: {id, value}
  end

  defp own_ids(%{kind: :unique} = table, key, pid) do
    case Table.holder(table, key) do
      {^pid, id} -> [id]
      _another_or_none -> []
    end
  end

  defp own_ids(table, key, pid) do
    head = {{pid, Table.slot(table, key), :"$2"}, :"$1"}
    :ets.select(table.index, [{head, [{:"=:=", :"$1", {:const, key}}], [:"$2"]}])
  end

  ## Finding the table

  defp fetch!(name) do
    case Table.fetch(name) do
      {:ok, table} -> table
      :error -> Backend.unknown!(name)
    end
  end

  # ETS raises for a table that went while it was used, and so does a registry then.
  defp on(name, fun) do
    table = fetch!(name)

    try do
      fun.(table)
    rescue
      error in ArgumentError ->
        if Table.there?(table),
          do: reraise(error, __STACKTRACE__),
          else: Backend.unknown!(name)
    end
  end
end
