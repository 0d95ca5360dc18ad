defmodule Foundation.Registry.Backends.ETS.Table do
  @moduledoc false
  # A registry of the ETS engine: five tables, and the directory where they are found by name.
  #
  #   entries      unique:    set          {key, pid, id, value}
  #                duplicate: ordered_set  {{hash of key, id}, key, pid, value}
  #   index        ordered_set             {{pid, slot, id}, key}
  #   registrants  set                     {pid, monitoring process | nil, monitor | nil}
  #   meta         set                     {key, value}
  #   claims       set                     {hash of key, claiming process}
  #
  # Ids grow, so the entries of a duplicate key lie beside each other in the order of their
  # registration, and one of them is found by its id alone: removing one of 100,000 entries
  # of a key, or of a process, costs a step down a tree. The hash stands for the key in
  # there because an ordered_set compares by `==`, and a pattern can bind an integer but
  # not every key; `=:=` on the key itself then decides. `slot` is that hash, and 0 in a
  # unique registry, whose entries name their id.
  #
  # An entry's index row is there from before the entry until after it. So whoever cleans
  # up after a process finds everything by its index rows, whatever was interrupted where;
  # and an entry is removed by whoever's deletion of the entry itself succeeds.
  #
  # Taking a unique entry away, or changing it, depends on its id, and ETS does that in one
  # step for a key that a pattern can bind. Maps and atoms like `:_` it cannot: those few keys
  # are changed under a claim on their hash, which is void when its process is dead.

  import Foundation.Registry.MatchSpec, only: [variable?: 1]

  @directory Foundation.Registry.Directory

  # phash2's largest range.
  @hashes 4_294_967_296

  @enforce_keys [:name, :kind, :entries, :index, :registrants, :meta, :claims]
  defstruct [
    :name,
    :kind,
    :owner,
    :entries,
    :index,
    :registrants,
    :meta,
    :claims,
    :adopt_timeout,
    :max_entries,
    :drops,
    partitions: 1,
    listeners: []
  ]

  @type t :: %__MODULE__{}

  @doc """
  Creates the directory. It belongs to the caller, which must live as long as the application.
  """
  @spec open_directory() :: :ok
  def open_directory do
    @directory = :ets.new(@directory, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @doc "The table of that name, or `:error`. O(1)."
  @spec fetch(atom) :: {:ok, t} | :error
  def fetch(name) do
    case :ets.lookup(@directory, name) do
      [{_name, table}] -> {:ok, table}
      [] -> :error
    end
  rescue
    # No directory: the application is not running, and neither is any table.
    ArgumentError -> :error
  end

  @doc "All tables of this engine."
  @spec all() :: [t]
  def all, do: :ets.select(@directory, [{{:_, :"$1"}, [], [:"$1"]}])

  @doc "Makes the table findable by its name."
  @spec publish(t) :: true
  def publish(table), do: :ets.insert(@directory, {table.name, table})

  @doc "Takes it out of the directory, unless another incarnation is there by now."
  @spec withdraw(t) :: :ok
  def withdraw(%{name: name, entries: entries}) do
    case fetch(name) do
      {:ok, %{entries: ^entries}} -> :ets.delete(@directory, name)
      _another_or_none -> true
    end

    :ok
  end

  @doc "New tables with the caller as their owner and their heir."
  @spec create(Foundation.Registry.Options.t()) :: t
  def create(options) do
    heir = {:heir, self(), options.name}

    %__MODULE__{
      name: options.name,
      kind: options.kind,
      entries: new_entries(options, heir),
      index: :ets.new(:foundation_registry_index, tree(heir)),
      registrants: :ets.new(:foundation_registry_registrants, [:set | concurrent(heir)]),
      meta: :ets.new(:foundation_registry_meta, [:set, :public, heir, read_concurrency: true]),
      claims: :ets.new(:foundation_registry_claims, [:set | concurrent(heir)]),
      drops: :counters.new(1, [])
    }
    |> configure(options)
  end

  @doc """
  What a new owner may change. Metadata that is there wins over the owner's, and listeners stay where
  it names none.
  """
  @spec configure(t, Foundation.Registry.Options.t()) :: t
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

  @doc "The ETS tables of a table."
  @spec parts(t) :: [:ets.tid()]
  def parts(table),
    do: [table.entries, table.index, table.registrants, table.meta, table.claims]

  @doc "Whether its ETS tables are still there."
  @spec there?(t) :: boolean
  def there?(table), do: :ets.info(table.entries, :id) != :undefined

  @doc "Deletes the ETS tables that are still there."
  @spec destroy(t) :: :ok
  def destroy(table) do
    for part <- parts(table), :ets.info(part, :id) != :undefined, do: :ets.delete(part)
    :ok
  end

  defp new_entries(%{kind: :unique} = options, heir),
    do: :ets.new(:foundation_registry_entries, [:set | compressible(options, concurrent(heir))])

  defp new_entries(options, heir),
    do: :ets.new(:foundation_registry_entries, compressible(options, tree(heir)))

  defp compressible(%{compressed: true}, ets_options), do: [:compressed | ets_options]
  defp compressible(_options, ets_options), do: ets_options

  defp tree(heir), do: [:ordered_set | concurrent(heir)]
  defp concurrent(heir), do: [:public, heir, read_concurrency: true, write_concurrency: true]

  ## Rows

  @doc "What stands for `key` in an index row, and before the id of a duplicate entry."
  @spec slot(t, term) :: non_neg_integer
  def slot(%{kind: :unique}, _key), do: 0
  def slot(_table, key), do: :erlang.phash2(key, @hashes)

  @doc """
  Deletes one entry; true for the one caller who did. The index row is left to the caller.
  """
  @spec drop(t, term, integer) :: boolean
  def drop(%{kind: :unique, entries: entries} = table, key, id) do
    if plain?(key) do
      :ets.select_delete(entries, [{{key, :_, id, :_}, [], [true]}]) == 1
    else
      claiming(table, key, fn ->
        match?([{_key, _pid, ^id, _value}], :ets.lookup(entries, key)) and
          :ets.delete(entries, key)
      end)
    end
  end

  def drop(%{entries: entries} = table, key, id) do
    spec = [{{{slot(table, key), id}, :_, :_, :_}, [], [true]}]
    :ets.select_delete(entries, spec) == 1
  end

  @doc "Removes all entries of `pid`; how many this call removed itself."
  @spec clean(t, pid) :: non_neg_integer
  def clean(table, pid) do
    # While the registrant is there, whoever comes after a monitor that was killed in here goes on
    # with it. And once more without it: a registration that is under way looks for it last.
    before = remove_all(table, pid)
    :ets.delete(table.registrants, pid)
    before + remove_all(table, pid)
  end

  defp remove_all(table, pid) do
    for {{_pid, _slot, id} = row, key} <- own_rows(table, pid), reduce: 0 do
      count ->
        dropped = if drop(table, key, id), do: 1, else: 0
        :ets.delete(table.index, row)
        count + dropped
    end
  end

  @doc "The index rows of `pid`, by key and registration."
  @spec own_rows(t, pid) :: [{{pid, non_neg_integer, integer}, term}]
  def own_rows(table, pid), do: :ets.select(table.index, [{{{pid, :_, :_}, :_}, [], [:"$_"]}])

  @doc "Sets the value of a unique entry of `pid` if it still is `expected`; true if it did."
  @spec swap(t, term, pid, term, term) :: boolean
  def swap(%{kind: :unique, entries: entries} = table, key, pid, expected, new) do
    if plain?(key) do
      guard = {:"=:=", :"$2", {:const, expected}}
      body = {{{:element, 1, :"$_"}, pid, :"$1", {:const, new}}}
      :ets.select_replace(entries, [{{key, pid, :"$1", :"$2"}, [guard], [body]}]) == 1
    else
      claiming(table, key, fn ->
        case :ets.lookup(entries, key) do
          [{key, ^pid, id, ^expected}] -> :ets.insert(entries, {key, pid, id, new})
          _another_or_none -> false
        end
      end)
    end
  end

  @doc "Who has a unique key, with which entry; without copying the value, where that can be."
  @spec holder(t, term) :: {pid, integer} | :none
  def holder(%{entries: entries}, key) do
    if plain?(key) do
      case :ets.select(entries, [{{key, :"$1", :"$2", :_}, [], [{{:"$1", :"$2"}}]}]) do
        [holder] -> holder
        [] -> :none
      end
    else
      case :ets.lookup(entries, key) do
        [{_key, pid, id, _value}] -> {pid, id}
        [] -> :none
      end
    end
  end

  defp claiming(%{claims: claims} = table, key, fun) do
    claim = {:erlang.phash2(key, @hashes), self()}

    if :ets.insert_new(claims, claim) do
      try do
        fun.()
      after
        :ets.delete_object(claims, claim)
      end
    else
      # Held for two operations on a table: not worth more than a yield.
      for {_hash, pid} = other <- :ets.lookup(claims, elem(claim, 0)),
          not Process.alive?(pid),
          do: :ets.delete_object(claims, other)

      :erlang.yield()
      claiming(table, key, fun)
    end
  end

  # Whether a pattern with this key binds it, to nothing but what is equal. In a map it does
  # neither on every OTP: there it is a pattern for all maps that have more, too.
  defp plain?(atom) when is_atom(atom), do: not variable?(atom)
  defp plain?([head | tail]), do: plain?(head) and plain?(tail)
  defp plain?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> plain?()
  defp plain?(map) when is_map(map), do: false
  # Before OTP 27 the two zeros are one key, but a pattern with one does not match the other.
  defp plain?(float) when is_float(float), do: float != 0.0
  defp plain?(_other), do: true
end
