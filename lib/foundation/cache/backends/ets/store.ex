defmodule Foundation.Cache.Backends.ETS.Store do
  @moduledoc false
  # The entries of the ETS engine. They are in two tables of the application's own process, which
  # outlives the servers:
  #
  #     {{name, key}, place, mark, epoch, fresh_until, gone_until, load_time, bytes, outcome}
  #     {{name, place}, key}      in the order in which the keys came
  #
  # Callers read, and set the mark of an entry that they hit. The cache's server does the rest.
  #
  # Eviction is SIEVE (Zhang et al., NSDI 2024). A hand goes from the oldest key to the newest one,
  # again and again. It takes the mark of an entry that has one, and evicts the first entry without
  # a mark. A second hand looks for expired entries, two with each write.

  alias Foundation.Cache.Backend
  alias Foundation.Cache.Cells

  @entries Module.concat(__MODULE__, Entries)
  @order Module.concat(__MODULE__, Order)

  # The positions in a row of an entry.
  @place 2
  @mark 3
  @epoch 4
  @gone 6
  @bytes 8

  # How many entries each write looks at for expired ones.
  @sweep 2
  @chunk 100

  @enforce_keys [:name, :cells, :max_bytes, :max_entries]
  defstruct [:name, :cells, :max_bytes, :max_entries, hand: 0, sweep: 0]

  @type t :: %__MODULE__{}
  @type kept :: {:ok, Backend.value()} | {:error, term}
  @type found :: {:fresh | :early | :stale, kept} | :gone | :none
  @type times :: %{ttl: Backend.time(), stale: Backend.time(), load_time: non_neg_integer}

  @spec open_tables() :: :ok
  def open_tables do
    options = [:named_table, :public, read_concurrency: true, write_concurrency: true]
    :ets.new(@entries, [:set | options])
    :ets.new(@order, [:ordered_set | options])
    :ok
  end

  ## For callers

  @doc """
  Returns what is under a key. `:early`: fresh, and chosen for an early refresh by its factor.

  The mark is set only where it is not, so that an entry that is hit often is not written.
  """
  @spec find(atom, Backend.key(), Cells.t(), number | nil) :: found
  def find(name, key, cells, early) do
    case :ets.lookup(@entries, {name, key}) do
      [] ->
        :none

      [{_id, _place, mark, epoch, fresh, gone, load_time, _bytes, kept}] ->
        now = now()

        cond do
          epoch != Cells.get(cells, :epoch) or gone <= now ->
            :gone

          fresh <= now ->
            {:stale, kept}

          true ->
            if mark == 0, do: :ets.update_element(@entries, {name, key}, {@mark, 1})
            {if(early?(early, fresh, load_time, now), do: :early, else: :fresh), kept}
        end
    end
  end

  # XFetch (Vattani et al., VLDB 2015).
  defp early?(nil, _fresh, _load_time, _now), do: false
  defp early?(_early, :infinity, _load_time, _now), do: false
  # Put, and not loaded.
  defp early?(_early, _fresh, 0, _now), do: false

  defp early?(early, fresh, load_time, now) do
    # Without the process dictionary, where `:rand.uniform/0` keeps its state.
    {random, _state} = :rand.uniform_s(:rand.seed_s(:exsss))
    now - load_time * early * :math.log(1.0 - random) >= fresh
  end

  @doc "The next values after a place, in the order in which their keys came."
  @spec walk(atom, Cells.t(), {place :: integer, last :: integer}) ::
          {[{Backend.key(), Backend.value()}], {integer, integer} | :done}
  def walk(name, cells, {place, last}), do: walk(name, cells, place, last, @chunk, [])

  defp walk(_name, _cells, place, last, 0, found), do: {Enum.reverse(found), {place, last}}

  defp walk(name, cells, place, last, left, found) do
    case next(name, place) do
      {next, key} when next <= last ->
        found =
          case find(name, key, cells, nil) do
            {_fresh_or_stale, {:ok, value}} -> [{key, value} | found]
            _no_value -> found
          end

        walk(name, cells, next, last, left - 1, found)

      _end ->
        {Enum.reverse(found), :done}
    end
  end

  ## For the server

  @doc "As `find/4`, and removes what is gone."
  @spec take_or_find(t, Backend.key()) :: found
  def take_or_find(%__MODULE__{name: name, cells: cells} = store, key) do
    with :gone <- find(name, key, cells, nil) do
      remove(store, key, :expired)
      :none
    end
  end

  @doc """
  Stores what is kept under a key, with the bytes of its entry, if it has a time and is not larger
  than the cache.
  """
  @spec insert(t, Backend.key(), {kept, bytes :: pos_integer}, times, epoch :: integer) ::
          {:stored | :not_stored, t}
  def insert(store, key, _sized, %{ttl: 0, stale: 0}, _epoch) do
    remove(store, key)
    {:not_stored, store}
  end

  def insert(store, key, {kept, bytes}, times, epoch) do
    if bytes > store.max_bytes do
      Cells.add(store.cells, :rejected, 1)
      remove(store, key)
      {:not_stored, store}
    else
      fresh = later(now(), times.ttl)

      {place, mark, old_bytes} = place(store, key)
      stale = later(fresh, times.stale)
      id = {store.name, key}
      entry = {id, place, mark, epoch, fresh, stale, times.load_time, bytes, kept}
      :ets.insert(@entries, entry)
      Cells.add(store.cells, :bytes, bytes - old_bytes)
      {:stored, store |> make_room(place) |> sweep(@sweep)}
    end
  end

  # A key keeps its place: a new value is a use of it. The order comes first, so that a kill leaves
  # no entry without a place.
  defp place(store, key) do
    # Counts an expired one.
    take_or_find(store, key)

    case meta(store.name, key) do
      nil ->
        place = Cells.next(store.cells, :place)
        :ets.insert(@order, {{store.name, place}, key})
        Cells.add(store.cells, :entries, 1)
        {place, 0, 0}

      %{place: place, bytes: bytes} ->
        {place, 1, bytes}
    end
  end

  defp later(:infinity, _time), do: :infinity
  defp later(_now, :infinity), do: :infinity
  defp later(now, time), do: now + time

  @doc "Removes what is under a key; `why` is a cell to count it in."
  @spec remove(t, Backend.key(), Cells.cell() | nil) :: :ok
  def remove(%{name: name, cells: cells} = store, key, why \\ nil) do
    case meta(name, key) do
      nil ->
        :ok

      meta ->
        why = why || if gone?(store, meta), do: :expired
        :ets.delete(@entries, {name, key})
        :ets.delete(@order, {name, meta.place})
        Cells.add(cells, :bytes, -meta.bytes)
        Cells.add(cells, :entries, -1)
        if why, do: Cells.add(cells, why, 1)
        :ok
    end
  end

  @doc "Removes all entries. The caller has begun a new epoch."
  @spec clear(t) :: :ok
  def clear(%{name: name} = store) do
    case next(name, 0) do
      {place, key} ->
        with meta when meta != nil <- meta(name, key) do
          :ets.delete(@entries, {name, key})
          Cells.add(store.cells, :bytes, -meta.bytes)
          Cells.add(store.cells, :entries, -1)
        end

        :ets.delete(@order, {name, place})
        clear(store)

      nil ->
        :ok
    end
  end

  @doc "Evicts until there is room; an entry is never evicted for itself."
  @spec make_room(t, place :: integer | nil) :: t
  def make_room(store, place) do
    if Cells.get(store.cells, :bytes) > store.max_bytes or
         Cells.get(store.cells, :entries) > store.max_entries,
       do: store |> evict(place) |> make_room(place),
       else: store
  end

  defp evict(%{name: name} = store, except) do
    {place, key} = next(name, store.hand) || next(name, 0)
    store = %{store | hand: place}

    case meta(name, key) do
      %{place: ^except} ->
        evict(store, except)

      meta ->
        cond do
          gone?(store, meta) -> remove(store, key, :expired)
          meta.mark == 1 -> :ets.update_element(@entries, {name, key}, {@mark, 0})
          true -> remove(store, key, :evicted)
        end

        store
    end
  end

  defp sweep(store, 0), do: store

  defp sweep(%{name: name} = store, left) do
    case next(name, store.sweep) do
      {place, key} ->
        meta = meta(name, key)
        if meta && gone?(store, meta), do: remove(store, key, :expired)
        sweep(%{store | sweep: place}, left - 1)

      nil ->
        %{store | sweep: 0}
    end
  end

  @doc "Adds up the entries that are there: a kill may have come between an entry and its count."
  @spec recount(t) :: :ok
  def recount(%{name: name, cells: cells}) do
    {entries, bytes} = recount(name, 0, 0, 0)
    Cells.put(cells, :entries, entries)
    Cells.put(cells, :bytes, bytes)
  end

  defp recount(name, place, entries, bytes) do
    case next(name, place) do
      nil ->
        {entries, bytes}

      {next, key} ->
        case meta(name, key) do
          %{place: ^next} = meta ->
            recount(name, next, entries + 1, bytes + meta.bytes)

          _none_or_another ->
            :ets.delete(@order, {name, next})
            recount(name, next, entries, bytes)
        end
    end
  end

  # Without the value, which may be large.
  defp meta(name, key) do
    id = {name, key}

    if :ets.member(@entries, id) do
      %{
        place: :ets.lookup_element(@entries, id, @place),
        mark: :ets.lookup_element(@entries, id, @mark),
        epoch: :ets.lookup_element(@entries, id, @epoch),
        gone: :ets.lookup_element(@entries, id, @gone),
        bytes: :ets.lookup_element(@entries, id, @bytes)
      }
    end
  end

  defp gone?(store, meta),
    do: meta.epoch != Cells.get(store.cells, :epoch) or meta.gone <= now()

  defp next(name, place) do
    case :ets.next(@order, {name, place}) do
      {^name, next} ->
        case :ets.lookup(@order, {name, next}) do
          [{_id, key}] -> {next, key}
          # Removed meanwhile: a walk runs in its caller.
          [] -> next(name, next)
        end

      _end_or_another_cache ->
        nil
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
