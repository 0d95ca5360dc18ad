defmodule Foundation.Cache.Backends.ETS.Server do
  @moduledoc false
  # The owner of a cache of the ETS engine does all but the reads of values, and watches the
  # processes that load. Its state is in tables that outlive it.

  alias Foundation.Cache.Backends.ETS.{Loads, Store}
  alias Foundation.Cache.{Cells, Config}

  defstruct [:name, :store, :load_timeout, monitors: %{}]

  @type t :: %__MODULE__{}

  @spec open(Config.t(), Cells.t()) :: t
  def open(config, cells) do
    store = %Store{
      name: config.name,
      cells: cells,
      max_bytes: config.max_bytes,
      max_entries: config.max_entries
    }

    Store.recount(store)

    server = %__MODULE__{
      name: config.name,
      # The limits may be lower than the predecessor's.
      store: Store.make_room(store, nil),
      load_timeout: config.load_timeout
    }

    watched = Loads.all(config.name) ++ Loads.waiters(config.name)
    Enum.reduce(watched, server, fn {ref, pid}, server -> watch(server, pid, ref) end)
  end

  @doc "Removes all that is known of a cache."
  @spec forget(atom, Cells.t()) :: :ok
  def forget(name, cells) do
    Cells.next(cells, :epoch)
    Loads.forget(name)
    Store.clear(%Store{name: name, cells: cells, max_bytes: 0, max_entries: 0})
  end

  ## Requests

  # The reference is the caller's. A caller whose server was killed before the answer asks the
  # successor, which finds what the predecessor did.
  @spec handle_request(term, t) :: {term, t}
  def handle_request({:begin, ref, pid, key, early?}, %{name: name} = server) do
    cond do
      Loads.get(name, ref) -> {{:load, ref}, server}
      Loads.waits?(name, ref) -> {{:wait, ref}, server}
      true -> begin(server, ref, pid, key, early?)
    end
  end

  def handle_request({:finish, lease, outcome, bytes}, %{name: name} = server) do
    case Loads.get(name, lease) do
      # It has been finished, and a kill has kept the answer back.
      nil -> {:not_stored, server}
      load -> finish(server, load, outcome, bytes)
    end
  end

  def handle_request({:cancel, ref, waiter}, server) do
    if Loads.cancel(server.name, ref),
      do: {:cancelled, unwatch(server, waiter, ref)},
      else: {:answered, server}
  end

  def handle_request({:put, key, value, bytes, ttl, stale}, server) do
    Loads.detach(server.name, key)
    times = %{ttl: ttl, stale: stale, load_time: 0}
    {_stored, server} = insert(server, key, {{:ok, value}, bytes}, times, epoch(server))
    {:ok, server}
  end

  def handle_request({:delete, key}, server) do
    Loads.detach(server.name, key)
    {Store.remove(server.store, key), server}
  end

  # The new epoch makes it one moment for all readers.
  def handle_request(:clear, server) do
    Cells.next(server.store.cells, :epoch)
    {Store.clear(server.store), server}
  end

  def handle_request({:drop, key}, server) do
    Store.take_or_find(server.store, key)
    {:ok, server}
  end

  def handle_request(_unknown, server), do: {{:error, :unknown_call}, server}

  ## Fetches

  defp begin(%{name: name} = server, ref, pid, key, early?) do
    load = Loads.current(name, key, epoch(server))

    case {Store.take_or_find(server.store, key), load} do
      {{:fresh, kept}, nil} -> if early?, do: grant(server, ref, pid, key), else: {kept, server}
      {{:fresh, kept}, _load} -> {kept, server}
      {{:stale, _kept}, nil} -> grant(server, ref, pid, key)
      {{:stale, kept}, _load} -> {{:stale, kept}, server}
      {:none, load} -> miss(server, ref, pid, key, load)
    end
  end

  defp miss(server, ref, pid, key, load) do
    cond do
      # Of a lease that has ended, too.
      loads?(server, pid, key) ->
        {:recursion, server}

      load == nil or stuck?(load, server.load_timeout) ->
        grant(server, ref, pid, key)

      true ->
        Loads.wait(server.name, load.lease, ref, pid)
        {{:wait, ref}, watch(server, pid, ref)}
    end
  end

  defp loads?(server, pid, key) do
    case server.monitors do
      %{^pid => {_monitor, refs}} ->
        Enum.any?(refs, &match?(%{key: ^key}, Loads.get(server.name, &1)))

      %{} ->
        false
    end
  end

  defp stuck?(_load, :infinity), do: false

  defp stuck?(load, timeout) do
    age = System.monotonic_time() - load.since
    System.convert_time_unit(age, :native, :millisecond) >= timeout
  end

  defp grant(server, ref, pid, key) do
    Loads.start(server.name, ref, key, pid, epoch(server))
    {{:load, ref}, watch(server, pid, ref)}
  end

  defp finish(%{name: name} = server, load, outcome, bytes) do
    {stored, server} =
      if Loads.current?(name, load, epoch(server)),
        do: store(server, load, outcome, bytes),
        else: {:not_stored, server}

    answered = Loads.answer_all(name, load.lease, answer(outcome))
    Cells.add(server.store.cells, :loads, 1)
    if elem(outcome, 0) != :ok, do: Cells.add(server.store.cells, :load_errors, 1)
    Loads.finish(name, load)
    {stored, unwatch_all(server, [{load.lease, load.loader} | answered])}
  end

  defp answer({:ok, value, _ttl, _stale}), do: {:ok, value}
  defp answer({:error, reason, _negative_ttl}), do: {:error, reason}
  defp answer({:failed, error}), do: {:error, error}

  defp store(server, load, {:ok, value, ttl, stale}, bytes) do
    load_time = System.monotonic_time() - load.since
    # Above 0, which says that it was put.
    load_time = max(1, System.convert_time_unit(load_time, :native, :millisecond))
    times = %{ttl: ttl, stale: stale, load_time: load_time}
    insert(server, load.key, {{:ok, value}, bytes}, times, load.epoch)
  end

  # An error does not take the place of a value that can still be served.
  defp store(server, load, {:error, reason, ttl}, bytes) do
    case Store.take_or_find(server.store, load.key) do
      {_fresh_or_stale, {:ok, _value}} ->
        {:not_stored, server}

      _no_value ->
        times = %{ttl: ttl, stale: 0, load_time: 0}
        insert(server, load.key, {{:error, reason}, bytes}, times, load.epoch)
    end
  end

  defp store(server, _load, {:failed, _error}, _bytes), do: {:not_stored, server}

  defp insert(server, key, sized, times, epoch) do
    {stored, store} = Store.insert(server.store, key, sized, times, epoch)
    {stored, %{server | store: store}}
  end

  defp epoch(server), do: Cells.get(server.store.cells, :epoch)

  ## Deaths of loaders and waiters

  @spec handle_message(term, t) :: t
  def handle_message({:DOWN, monitor, :process, pid, _reason}, server) do
    case server.monitors do
      %{^pid => {^monitor, refs}} ->
        server = %{server | monitors: Map.delete(server.monitors, pid)}
        for ref <- refs, do: Loads.cancel(server.name, ref)
        Enum.reduce(refs, server, &lose(&2, Loads.get(server.name, &1)))

      %{} ->
        server
    end
  end

  def handle_message(_unknown, server), do: server

  defp lose(server, nil), do: server

  # The lease stays, and goes to the caller that waits longest. If that is dead, its monitor says
  # so.
  defp lose(%{name: name} = server, load) do
    case Loads.current?(name, load, epoch(server)) && Loads.next(name, load.lease) do
      {ref, waiter} ->
        # The message comes first, as in `Loads.answer/4`: a waiter that has the lease must know.
        send(waiter, {:foundation_cache, ref, {:load, load.lease}})
        Loads.hand_over(name, load.lease, waiter)
        Loads.cancel(name, ref)
        server |> watch(waiter, load.lease) |> unwatch(waiter, ref)

      _no_waiter_or_ended ->
        answered = Loads.answer_all(name, load.lease, :again)
        Loads.finish(name, load)
        unwatch_all(server, answered)
    end
  end

  # One monitor for each process. The references are its leases, and those that it waits by.
  defp watch(server, pid, ref) do
    {monitor, refs} = Map.get_lazy(server.monitors, pid, fn -> {Process.monitor(pid), []} end)
    %{server | monitors: Map.put(server.monitors, pid, {monitor, [ref | refs]})}
  end

  defp unwatch_all(server, watched),
    do: Enum.reduce(watched, server, fn {ref, pid}, server -> unwatch(server, pid, ref) end)

  defp unwatch(server, pid, ref) do
    case server.monitors do
      %{^pid => {monitor, [^ref]}} ->
        Process.demonitor(monitor, [:flush])
        %{server | monitors: Map.delete(server.monitors, pid)}

      %{^pid => {monitor, refs}} ->
        refs = List.delete(refs, ref)
        %{server | monitors: Map.put(server.monitors, pid, {monitor, refs})}

      %{} ->
        server
    end
  end
end
