defmodule Foundation.Registry.Backends.ETS.Table do
  @moduledoc false
  # A registry of the ETS engine: five ETS tables, found through a persistent term by its name.
  #
  #   entries      unique:    set            {key, pid, value, id}
  #                duplicate: duplicate_bag  {key, {pid, value}, id}
  #   index        ordered_set               {{pid, slot, id}, key}
  #   registrants  set                       {pid, monitoring process | nil, monitor | nil}
  #   meta         set                       {key, value}
  #   claims       set                       {hash of key, claiming process}
  #
  # A persistent term is read without a lock and without a copy. It changes only when a registry
  # starts, stops or gets a new owner, since replacing one makes the VM scan all processes.
  #
  # The rows have the form in which a read needs them. One `:ets.lookup_element/3` returns the pairs
  # of a duplicate key in the order of their registration. `slot` is the key's hash in a duplicate
  # registry, so that a process finds its entries under one key without reading its others. It is 0
  # in a unique registry.
  #
  # An index row exists from before its entry until after it. So a clean-up finds every entry of a
  # dead process by the index, wherever that process or an earlier clean-up was interrupted. If
  # several callers remove one entry, the caller that succeeds in deleting it counts it.
  #
  # A unique entry is removed or replaced only if it still has the same id. ETS does that in one
  # step if a pattern can bind the key. It cannot bind maps and atoms like `:_`. Such an entry is
  # changed under a claim on the key's hash. A claim of a dead process is void.
  #
  # The owner of an entry updates its value with a plain insert, under a claim. Between its read and
  # its write, its own callback or `unregister_for/3` may remove the entry, and another process may
  # register the key. Each removal is counted in `counters`, and a removal by another process holds
  # the claim too. An owner that sees a new count checks who has the key.

  @behaviour Foundation.Registry.HeldTable

  import Foundation.Registry.MatchSpec, only: [variable?: 1]

  alias Foundation.Registry.{Backend, Monitor}

  # phash2's largest range.
  @hashes 4_294_967_296

  @drops 1
  @removals 2

  @enforce_keys [:name, :kind, :entries, :index, :registrants, :meta, :claims, :counters]
  defstruct [
    :name,
    :kind,
    :owner,
    :entries,
    :index,
    :registrants,
    :meta,
    :claims,
    :counters,
    :adopt_timeout,
    :max_entries,
    partitions: 1,
    listeners: []
  ]

  @type t :: %__MODULE__{}
  @type id :: integer

  ## The directory

  @doc "Returns the table of that name, or nil. O(1), without a copy."
  @spec get(atom) :: t | nil
  def get(name), do: :persistent_term.get({__MODULE__, name}, nil)

  @impl true
  def fetch(name) do
    case get(name) do
      nil -> :error
      table -> {:ok, table}
    end
  end

  @impl true
  def all, do: for({{__MODULE__, _name}, table} <- :persistent_term.get(), do: table)

  @impl true
  def publish(table), do: :persistent_term.put({__MODULE__, table.name}, table)

  @impl true
  def restore(table) do
    publish(table)
    Monitor.watch_all(table.name)
  end

  @impl true
  def withdraw(%{name: name, entries: entries}) do
    with %{entries: ^entries} <- get(name), do: :persistent_term.erase({__MODULE__, name})
    :ok
  end

  ## Creating and destroying

  @impl true
  def create(options) do
    heir = {:heir, self(), options.name}

    %__MODULE__{
      name: options.name,
      kind: options.kind,
      entries: new_entries(options, heir),
      index: :ets.new(:foundation_registry_index, [:ordered_set | concurrent(heir)]),
      registrants: :ets.new(:foundation_registry_registrants, [:set | concurrent(heir)]),
      meta: :ets.new(:foundation_registry_meta, [:set, :public, heir, read_concurrency: true]),
      claims: :ets.new(:foundation_registry_claims, [:set, :public, heir]),
      counters: :counters.new(2, [])
    }
    |> configure(options)
  end

  defp new_entries(options, heir) do
    type = if options.kind == :unique, do: :set, else: :duplicate_bag
    compressed = if options.compressed, do: [:compressed], else: []
    :ets.new(:foundation_registry_entries, [type | compressed] ++ concurrent(heir))
  end

  defp concurrent(heir), do: [:public, heir, read_concurrency: true, write_concurrency: true]

  # Present metadata takes precedence over the owner's. Present listeners stay if the owner names
  # none.
  @impl true
  def configure(table, options) do
    for {key, value} <- options.meta, do: :ets.insert_new(table.meta, {key, value})

    %{
      table
      | partitions: options.partitions,
        listeners: options.listeners || table.listeners,
        adopt_timeout: options.adopt_timeout,
        max_entries: options.max_entries
    }
  end

  @impl true
  def parts(table),
    do: [table.entries, table.index, table.registrants, table.meta, table.claims]

  @impl true
  def there?(table), do: :ets.info(table.entries, :id) != :undefined

  @doc """
  Calls `fun` with the table. If the table is deleted meanwhile, ETS raises, and then this raises
  the error for a registry that is not running.
  """
  @spec guarded(t, (t -> result)) :: result when result: var
  def guarded(table, fun) do
    fun.(table)
  rescue
    error in ArgumentError ->
      if there?(table),
        do: reraise(error, __STACKTRACE__),
        else: Backend.unknown!(table.name)
  end

  @impl true
  def retire(table) do
    withdraw(table)
    Monitor.forget(table)
    for part <- parts(table), :ets.info(part, :id) != :undefined, do: :ets.delete(part)
    :ok
  end

  @doc "Counts a registration that the bound refused."
  @spec count_drop(t) :: :ok
  def count_drop(table), do: :counters.add(table.counters, @drops, 1)

  @doc "Returns how many registrations the bound refused."
  @spec drops(t) :: non_neg_integer
  def drops(table), do: :counters.get(table.counters, @drops)

  ## Rows

  @doc "Returns the slot of `key` in an index row."
  @spec slot(t, term) :: non_neg_integer
  def slot(%{kind: :unique}, _key), do: 0
  def slot(_duplicate, key), do: hash(key)

  @doc "Returns the claim that stands for `key`."
  @spec hash(term) :: non_neg_integer
  def hash(key), do: :erlang.phash2(key, @hashes)

  @doc "Returns a pattern or a row of the entries table."
  @spec row(t, term, term, term, term) :: tuple
  def row(%{kind: :unique}, key, pid, value, id), do: {key, pid, value, id}
  def row(_duplicate, key, pid, value, id), do: {key, {pid, value}, id}

  @doc "Returns the process and the id of a unique entry, without a copy of the value if possible."
  @spec holder(t, term) :: {pid, id} | :none
  def holder(%{entries: entries}, key) do
    if plain?(key) do
      case :ets.select(entries, [{{key, :"$1", :_, :"$2"}, [], [{{:"$1", :"$2"}}]}]) do
        [holder] -> holder
        [] -> :none
      end
    else
      case :ets.lookup(entries, key) do
        [{_key, pid, _value, id}] -> {pid, id}
        [] -> :none
      end
    end
  end

  @doc "Returns the ids of the entries of `pid` under `key`. O(log n) and those entries."
  @spec own_ids(t, term, pid) :: [id]
  def own_ids(%{kind: :unique} = table, key, pid) do
    case holder(table, key) do
      {^pid, id} -> [id]
      _another_or_none -> []
    end
  end

  def own_ids(table, key, pid) do
    head = {{pid, slot(table, key), :"$2"}, :"$1"}
    :ets.select(table.index, [{head, [{:"=:=", :"$1", {:const, key}}], [:"$2"]}])
  end

  @doc "Returns the index rows of `pid`."
  @spec own_rows(t, pid) :: [{{pid, non_neg_integer, id}, term}]
  def own_rows(table, pid), do: :ets.select(table.index, [{{{pid, :_, :_}, :_}, [], [:"$_"]}])

  ## Removing

  @doc """
  Deletes the entries with these ids under `key`, and returns how many this call deleted itself. The
  index rows are left to the caller. One pass over the entries of the key.
  """
  @spec drop(t, term, [id]) :: non_neg_integer
  def drop(_table, _key, []), do: 0

  def drop(table, key, ids) do
    cond do
      not plain?(key) ->
        claiming(table, key, fn -> drop_each(table, key, ids) end)

      match?([_], ids) ->
        :ets.select_delete(table.entries, [{row(table, key, :_, :_, hd(ids)), [], [true]}])

      true ->
        :ets.select_delete(table.entries, [{row(table, key, :_, :_, :"$1"), [among(ids)], [true]}])
    end
  end

  defp among(ids), do: {:is_map_key, :"$1", Map.new(ids, &{&1, []})}

  # An entry is unique: no two entries have one id.
  defp drop_each(table, key, ids) do
    for row <- :ets.lookup(table.entries, key), id(row) in ids, reduce: 0 do
      count ->
        :ets.delete_object(table.entries, row)
        count + 1
    end
  end

  defp id({_key, _pid, _value, id}), do: id
  defp id({_key, _pair, id}), do: id

  @doc "Deletes entries of `pid` as `drop/3` does, and their index rows."
  @spec remove(t, term, pid, [id]) :: non_neg_integer
  def remove(table, key, pid, ids) do
    count =
      if pid == self(), do: drop_counted(table, key, ids), else: drop_anothers(table, key, ids)

    slot = slot(table, key)
    for id <- ids, do: :ets.delete(table.index, {pid, slot, id})
    count
  end

  # The count is increased last, and under the claim. So an owner that gets the claim after its
  # read, and sees the count unchanged, knows that its entry is still there.
  defp drop_anothers(%{kind: :unique} = table, key, ids),
    do: claiming(table, key, fn -> drop_counted(table, key, ids) end)

  defp drop_anothers(table, key, ids), do: drop(table, key, ids)

  defp drop_counted(table, key, ids) do
    count = drop(table, key, ids)
    if table.kind == :unique, do: :counters.add(table.counters, @removals, 1)
    count
  end

  @doc "Removes all entries of dead processes, and returns how many this call removed itself."
  @spec clean(t, [pid]) :: non_neg_integer
  def clean(table, pids) do
    # Remove the entries twice. The first pass runs while the registrants are still recorded: if the
    # monitor is killed in here, its successor starts again. The second pass runs after their
    # removal: a concurrent registration checks the registrant last, and may have inserted its entry
    # meanwhile.
    before = remove_all(table, pids)
    for pid <- pids, do: :ets.delete(table.registrants, pid)
    before + remove_all(table, pids)
  end

  # One pass per key, however many of its registrants have died.
  defp remove_all(table, pids) do
    rows = Enum.flat_map(pids, &own_rows(table, &1))
    by_key = Enum.group_by(rows, &elem(&1, 1), fn {{_pid, _slot, id}, _key} -> id end)
    count = for {key, ids} <- by_key, reduce: 0, do: (count -> count + drop(table, key, ids))
    for {row, _key} <- rows, do: :ets.delete(table.index, row)
    count
  end

  ## Updating

  @doc """
  Returns `{:ok, value, version}` for the caller's unique entry, or `:error`. `write_own/4` takes
  the version.
  """
  @spec read_own(t, term) :: {:ok, term, version :: term} | :error
  def read_own(table, key) do
    me = self()
    removals = :counters.get(table.counters, @removals)

    case :ets.lookup(table.entries, key) do
      [{stored, ^me, value, id}] -> {:ok, value, {stored, id, removals}}
      _anothers_or_none -> :error
    end
  end

  @doc """
  Sets the value of the caller's unique entry. Returns false if the entry was removed after the
  read.
  """
  @spec write_own(t, term, version :: term, term) :: boolean
  def write_own(table, key, {stored, id, removals}, value) do
    claiming(table, key, fn ->
      (:counters.get(table.counters, @removals) == removals or
         holder(table, key) == {self(), id}) and
        :ets.insert(table.entries, {stored, self(), value, id})
    end)
  end

  @doc "Sets the value of a unique entry of `pid` if it still is `expected`; true if it did."
  @spec swap(t, term, pid, term, term) :: boolean
  def swap(%{kind: :unique, entries: entries} = table, key, pid, expected, new) do
    if plain?(key) do
      guard = {:"=:=", :"$2", {:const, expected}}
      body = {{{:element, 1, :"$_"}, pid, {:const, new}, :"$1"}}
      :ets.select_replace(entries, [{{key, pid, :"$2", :"$1"}, [guard], [body]}]) == 1
    else
      claiming(table, key, fn ->
        case :ets.lookup(entries, key) do
          [{key, ^pid, ^expected, id}] -> :ets.insert(entries, {key, pid, new, id})
          _another_or_none -> false
        end
      end)
    end
  end

  defp claiming(%{claims: claims} = table, key, fun) do
    claim = {hash(key), self()}

    cond do
      :ets.insert_new(claims, claim) ->
        try do
          fun.()
        after
          :ets.delete_object(claims, claim)
        end

      # An outer call of this process holds the claim.
      :ets.lookup(claims, elem(claim, 0)) == [claim] ->
        fun.()

      true ->
        # A claim is held only for a few table operations, so a yield is enough.
        for {_hash, pid} = other <- :ets.lookup(claims, elem(claim, 0)),
            not Process.alive?(pid),
            do: :ets.delete_object(claims, other)

        :erlang.yield()
        claiming(table, key, fun)
    end
  end

  @doc """
  Returns whether a pattern with this key binds it, and matches only equal keys. A map does neither
  on every OTP: in a pattern it also matches each map with further keys.
  """
  @spec plain?(term) :: boolean
  def plain?(atom) when is_atom(atom), do: not variable?(atom)
  def plain?([head | tail]), do: plain?(head) and plain?(tail)
  def plain?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> plain?()
  def plain?(map) when is_map(map), do: false
  # Before OTP 27 both zeros are one key, but a pattern with one does not match the other.
  def plain?(float) when is_float(float), do: float != 0.0
  def plain?(_other), do: true
end
