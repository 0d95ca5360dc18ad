defmodule Foundation.Resilience.ETS do
  @moduledoc false
  # The ETS engine. The owner of each instance is its server. The server's whole state is in a table
  # of the application's own process, so it outlives the server. The rows are:
  #
  #     {{:instance, name}, kind, owner, config, adopt_timeout}
  #     {{:state, name, place}, state}            of the bare name or a key
  #     {{:held, name, ref}, place, pid, data}    a permit or a call that is out
  #
  # A request has a reference of its caller's. If the server is killed before its answer, the caller
  # repeats the request, and the successor finds the permit that was granted.

  @behaviour Foundation.Reaper

  alias Foundation.{Native, Reaper}
  alias Foundation.Resilience.{Events, Instance}
  alias Foundation.Resilience.ETS.{Breaker, Limiter, Pool}

  @table __MODULE__
  # How long a call waits for a server that is away, and how often it looks.
  @patience_ms 5_000
  @pause_ms 2
  @ms 1_000_000
  # How many rows a walk over the table takes at a time.
  @chunk 500
  # The largest number of calls that one process has out. Another call makes the server forget the
  # older half. Without that, a process that never records would fill the table.
  @calls_max 10_000

  @states %{bulkhead: Pool, circuit_breaker: Breaker, rate_limiter: Limiter}

  @doc "Makes the table, for the process that outlives the servers."
  @spec open_table() :: :ok
  def open_table do
    :ets.new(@table, [:named_table, :public, write_concurrency: true, read_concurrency: true])
    :ok
  end

  ## Callers

  @doc "Returns the answer of an instance's server; `nil` where there is no such instance."
  @spec call(Instance.kind(), Instance.target(), term) :: term
  def call(kind, target, request) do
    {name, place} = split(target)
    ask(kind, name, {place, prepared(request, name)}, patience())
  end

  defp split({name, key}), do: {name, {:key, key}}
  defp split(name), do: {name, :bare}

  # A repeated request has the same reference and deadline.
  defp prepared({:acquire, weight, wait}, name),
    do: {:acquire, make_ref(), self(), weight, deadline(wait || default_wait(name))}

  defp prepared(:ask, _name), do: {:ask, make_ref(), self()}
  defp prepared(request, _name), do: request

  defp default_wait(name) do
    case instance(name) do
      {:bulkhead, _owner, config, _timeout} -> config.wait
      _other_or_none -> 0
    end
  end

  defp deadline(0), do: :none
  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: System.monotonic_time(:millisecond) + ms

  defp ask(kind, name, request, patience) do
    case instance(name) do
      {^kind, _owner, _config, _timeout} ->
        try do
          GenServer.call(name, request, :infinity)
        catch
          # Only the server's absence or death ends a call that never times out.
          :exit, {_reason, {GenServer, :call, _arguments}} ->
            if System.monotonic_time(:millisecond) > patience, do: Instance.unknown!(name, kind)
            Process.sleep(@pause_ms)
            ask(kind, name, request, if(Process.whereis(name), do: patience(), else: patience))
        end

      _other_or_none ->
        nil
    end
  end

  defp patience, do: System.monotonic_time(:millisecond) + @patience_ms

  defp instance(name) do
    case :ets.lookup(@table, {:instance, name}) do
      [{_key, kind, owner, config, timeout}] -> {kind, owner, config, timeout}
      [] -> nil
    end
  end

  @doc "Returns all instances; none where the application is not running."
  @spec instances() :: [{atom, Instance.kind(), pid, config :: map}]
  def instances do
    row = {{:instance, :"$1"}, :"$2", :"$3", :"$4", :_}
    :ets.select(@table, [{row, [], [{{:"$1", :"$2", :"$3", :"$4"}}]}])
  rescue
    # There is no table.
    ArgumentError -> []
  end

  @doc "The name of the process that removes what has no owner any more."
  @spec reaper() :: atom
  def reaper, do: Foundation.Resilience.Reaper

  @impl true
  def owners do
    row = {{:instance, :"$1"}, :_, :"$2", :_, :"$3"}
    :ets.select(@table, [{row, [], [{{:"$1", :"$2", :"$3"}}]}])
  end

  @doc """
  Calls `fun` with the accumulator and each target that is full or not closed, of all instances:
  `{name, place, {:in_use, in_use, resized}}` or `{name, place, {:phase, phase}}`. A bulkhead's
  `:max` is in the configuration of its instance, so `fun` compares it.

  The table selects the rows, so the states themselves are not copied. It is read in chunks.
  """
  @spec reduce_limiting(acc, ({atom, Native.place(), tuple}, acc -> acc)) :: acc when acc: term
  def reduce_limiting(acc, fun) do
    row = {{:state, :"$1", :"$2"}, :"$3"}
    in_use = {:map_get, :in_use, :"$3"}
    phase = {:map_get, :phase, :"$3"}

    # Only a pool has `in_use`, only a breaker `phase`.
    spec = [
      {row, [{:is_map_key, :in_use, :"$3"}, {:>, in_use, 0}],
       [{{:"$1", :"$2", {{:in_use, in_use, {:map_get, :resized, :"$3"}}}}}]},
      {row, [{:is_map_key, :phase, :"$3"}, {:"/=", phase, :closed}],
       [{{:"$1", :"$2", {{:phase, phase}}}}]}
    ]

    # Fixed, so that a row is visited once while others come and go.
    :ets.safe_fixtable(@table, true)

    try do
      reduce_chunks(:ets.select(@table, spec, @chunk), acc, fun)
    after
      :ets.safe_fixtable(@table, false)
    end
  rescue
    # The application stops meanwhile, and the table with it.
    ArgumentError -> acc
  end

  defp reduce_chunks({rows, continuation}, acc, fun),
    do: reduce_chunks(:ets.select(continuation), Enum.reduce(rows, acc, fun), fun)

  defp reduce_chunks(:"$end_of_table", acc, _fun), do: acc

  @spec owner?(atom, pid) :: boolean
  def owner?(name, pid), do: match?({_kind, ^pid, _config, _timeout}, instance(name))

  @doc "Removes all that is known of an instance."
  @spec forget(atom) :: :ok
  def forget(name) do
    if :ets.member(@table, {:instance, name}) do
      :ets.delete(@table, {:instance, name})
      :ets.match_delete(@table, {{:state, name, :_}, :_})
      :ets.match_delete(@table, {{:held, name, :_}, :_, :_, :_})
    end

    :ok
  end

  @impl true
  def forget(name, owner), do: if(owner?(name, owner), do: forget(name), else: :ok)

  ## The server

  @spec open(atom, Instance.kind(), map, timeout) :: {:ok, map} | {:error, term}
  def open(name, kind, config, adopt_timeout) do
    case instance(name) do
      {_kind, owner, _config, _timeout} when owner != self() ->
        if Process.alive?(owner) do
          {:error, {:already_started, owner}}
        else
          adopt(name, kind, config, adopt_timeout)
        end

      _own_or_none ->
        adopt(name, kind, config, adopt_timeout)
    end
  end

  defp adopt(name, kind, config, adopt_timeout) do
    # The state of another kind is of no use.
    unless match?({^kind, _owner, _config, _timeout}, instance(name)), do: forget(name)
    :ets.insert(@table, {{:instance, name}, kind, self(), config, adopt_timeout})
    Reaper.watch(reaper(), name, self(), adopt_timeout)

    server = %{
      name: name,
      kind: kind,
      config: config,
      monitors: %{},
      waiting: %{},
      # All keys, those that were looked at last at the end.
      keys: :queue.new(),
      count: 0,
      # No key is idle before.
      idle_from: 0
    }

    {:ok, server |> restore() |> serve_all()}
  end

  # A kill between two writes can leave a count that does not match the permits that are out.
  defp restore(%{name: name} = server) do
    places = :ets.select(@table, [{{{:state, name, :"$1"}, :_}, [], [:"$1"]}])
    keys = for {:key, _key} = place <- places, do: place
    server = %{server | keys: :queue.from_list(keys), count: length(keys)}
    held = :ets.match(@table, {{:held, name, :"$1"}, :"$2", :"$3", :"$4"})
    by_place = Enum.group_by(held, fn [_ref, place, _pid, _data] -> place end)

    for place <- places do
      put(server, place, recount(state(server, place), Map.get(by_place, place, [])))
    end

    waiters =
      for place <- places,
          %Pool{} = pool <- [state(server, place)],
          {ref, pid, _weight} <- :queue.to_list(pool.waiting),
          do: {ref, place, pid}

    server = for([ref, place, pid, _data] <- held, do: {ref, place, pid}) |> watch_all(server)
    watch_all(waiters, server)
  end

  defp recount(%Pool{} = pool, held),
    do: %{
      pool
      | in_use: held |> Enum.map(fn [_ref, _place, _pid, weight] -> weight end) |> Enum.sum()
    }

  defp recount(%Breaker{} = breaker, held) do
    refs = for [ref, _place, _pid, %{probe?: true}] <- held, do: ref
    out = Enum.count(held, fn [_ref, _place, _pid, call] -> not call.probe? end)
    %{breaker | out: out, probes: Map.take(breaker.probes, refs)}
  end

  defp recount(state, _held), do: state

  defp watch_all(entries, server),
    do:
      Enum.reduce(entries, server, fn {ref, place, pid}, server ->
        watch(server, pid, ref, place)
      end)

  # Waiters of a pool that has another size now.
  defp serve_all(%{kind: :bulkhead} = server) do
    places = :ets.select(@table, [{{{:state, server.name, :"$1"}, :_}, [], [:"$1"]}])
    Enum.reduce(places, server, &serve(&2, &1))
  end

  defp serve_all(server), do: server

  @doc "Destroys the instance; those who wait are told that there is none."
  def close(name, server) do
    forget(name)
    for {_ref, {from, _timer}} <- server.waiting, do: GenServer.reply(from, nil)
    :ok
  end

  @spec handle_request(term, GenServer.from(), map) :: {:reply, term, map} | {:noreply, map}
  def handle_request({place, request}, from, server) when place == :bare or is_tuple(place),
    do: handle(request, place, from, server)

  def handle_request(_unknown, _from, server), do: {:reply, {:error, :unknown_call}, server}

  ## Bulkheads

  defp handle({:acquire, ref, pid, weight, deadline}, place, from, %{kind: :bulkhead} = server) do
    case :ets.lookup(@table, {:held, server.name, ref}) do
      # It is asked for again, and was granted before.
      [_held] ->
        {:reply, {:granted, ref}, server}

      [] ->
        with {:ok, pool, server} <- fetch(server, place) do
          if Pool.waits?(pool, ref),
            do: {:noreply, await(server, place, ref, from, deadline)},
            else: acquire(server, place, pool, {ref, pid, weight}, from, deadline)
        end
    end
  end

  defp handle({:release, ref}, _place, _from, %{kind: :bulkhead} = server) do
    case take(server, ref) do
      {place, pid, weight} ->
        put(server, place, Pool.release(state(server, place), weight, 0))
        {:reply, :ok, server |> unwatch(pid, ref) |> freed() |> serve(place)}

      nil ->
        {:reply, :ok, server}
    end
  end

  defp handle({:resize, max}, place, _from, %{kind: :bulkhead} = server) do
    with {:ok, pool, server} <- fetch(server, place) do
      {refused, pool} = Pool.resize(pool, server.config, max)
      put(server, place, pool)
      {:reply, :ok, server |> tell(place, refused) |> serve(place)}
    end
  end

  defp handle(:info, place, _from, %{kind: :bulkhead} = server),
    do: {:reply, Pool.info(state(server, place), server.config), server}

  ## Circuit breakers

  defp handle({:ask, ref, pid}, place, _from, %{kind: :circuit_breaker} = server) do
    with {:ok, breaker, server} <- fetch(server, place) do
      {answer, breaker, changed} = Breaker.ask(breaker, server.config, ref, now())

      case answer do
        {:ok, call} ->
          :ets.insert(@table, {{:held, server.name, ref}, place, pid, call})
          put(server, place, breaker)
          server = server |> forget_old(pid) |> watch(pid, ref, place)
          {:reply, with_changes({:admitted, ref}, changed), server}

        refusal ->
          put(server, place, breaker)
          {:reply, with_changes(refusal, changed), server}
      end
    end
  end

  defp handle({:record, ref, outcome}, _place, _from, %{kind: :circuit_breaker} = server) do
    {changed, server} = record(server, ref, outcome)
    {:reply, with_changes(:ok, changed), server}
  end

  defp handle(:isolate, place, _from, %{kind: :circuit_breaker} = server) do
    with {:ok, breaker, server} <- fetch(server, place) do
      {breaker, changed} = Breaker.isolate(breaker, now())
      put(server, place, breaker)
      {:reply, with_changes(:ok, changed), server}
    end
  end

  defp handle(:reset, place, _from, %{kind: :circuit_breaker} = server) do
    {breaker, changed} = Breaker.reset(state(server, place), now())
    if known?(server, place), do: put(server, place, breaker)
    {:reply, with_changes(:ok, changed), freed(server)}
  end

  defp handle(:state, place, _from, %{kind: :circuit_breaker} = server),
    do: {:reply, state(server, place).phase, server}

  defp handle(:classify, _place, _from, %{kind: :circuit_breaker} = server),
    do: {:reply, server.config.classify, server}

  defp handle(:info, place, _from, %{kind: :circuit_breaker} = server),
    do: {:reply, Breaker.info(state(server, place), server.config, now()), server}

  ## Rate limiters

  defp handle({:take, cost, wait}, place, _from, %{kind: :rate_limiter} = server) do
    take_slot(server, place, cost, wait, fn
      slot, now when slot > now -> {:wait, later(slot, now)}
      _slot, _now -> :ok
    end)
  end

  defp handle({:reserve, cost, wait}, place, _from, %{kind: :rate_limiter} = server) do
    take_slot(server, place, cost, wait, fn slot, now -> {:reserved, slot, later(slot, now)} end)
  end

  defp handle({:settle, slot, reserved, actual}, place, _from, %{kind: :rate_limiter} = server) do
    limiter = state(server, place)
    {answer, limiter} = Limiter.settle(limiter, server.config, slot, reserved, actual, now())
    if known?(server, place), do: put(server, place, limiter)
    {:reply, answer, freed(server)}
  end

  defp handle(:info, place, _from, %{kind: :rate_limiter} = server),
    do: {:reply, Limiter.info(state(server, place), server.config, now()), server}

  defp handle(_unknown, _place, _from, server), do: {:reply, {:error, :unknown_call}, server}

  defp take_slot(server, place, cost, wait, answer) do
    with {:ok, limiter, server} <- fetch(server, place) do
      now = now()

      case Limiter.take(limiter, server.config, cost, wait, now) do
        {{:ok, slot}, limiter} ->
          put(server, place, limiter)
          {:reply, answer.(slot, now), server}

        {refusal, limiter} ->
          put(server, place, limiter)
          {:reply, refusal, server}
      end
    end
  end

  defp later(slot, now), do: div(slot - now + @ms - 1, @ms)

  defp record(server, ref, outcome) do
    case take(server, ref) do
      {place, pid, call} ->
        breaker = state(server, place)
        {breaker, changed} = Breaker.record(breaker, server.config, ref, call, outcome, now())
        put(server, place, breaker)
        {changed, server |> unwatch(pid, ref) |> freed()}

      nil ->
        {[], server}
    end
  end

  defp forget_old(server, pid) do
    case server.monitors do
      %{^pid => {_monitor, refs}} when map_size(refs) >= @calls_max ->
        refs
        |> Enum.map(fn {ref, _place} -> {started(server, ref), ref} end)
        |> Enum.sort()
        |> Enum.take(div(@calls_max, 2))
        |> Enum.reduce(server, fn {_started, ref}, server ->
          {[], server} = record(server, ref, :ignore)
          server
        end)

      %{} ->
        server
    end
  end

  defp started(server, ref) do
    [{_key, _place, _pid, call}] = :ets.lookup(@table, {:held, server.name, ref})
    call.started
  end

  ## Messages

  def handle_message({:DOWN, monitor, :process, pid, _reason}, server) do
    case server.monitors do
      %{^pid => {^monitor, refs}} ->
        server = %{server | monitors: Map.delete(server.monitors, pid)}
        refs |> Enum.reduce(server, &lose/2) |> freed()

      %{} ->
        server
    end
  end

  def handle_message({:wait_over, place, ref}, server) do
    case server.waiting do
      %{^ref => {{pid, _tag} = from, _timer}} ->
        pool = state(server, place)

        with %Pool{} = without <- Pool.cancel(pool, ref) do
          put(server, place, %{without | timed_out: without.timed_out + 1})
          GenServer.reply(from, :timeout)
        end

        server = %{server | waiting: Map.delete(server.waiting, ref)}
        # The waiter behind it may need less.
        server |> unwatch(pid, ref) |> freed() |> serve(place)

      %{} ->
        server
    end
  end

  def handle_message(_unknown, server), do: server

  # A process has died that held or waited for this.
  defp lose({ref, place}, %{kind: :bulkhead} = server) do
    case take(server, ref) do
      {place, _pid, weight} ->
        put(server, place, Pool.release(state(server, place), weight, 1))
        serve(server, place)

      nil ->
        with %Pool{} = pool <- Pool.cancel(state(server, place), ref),
             do: put(server, place, pool)

        server |> stop_waiting(ref) |> serve(place)
    end
  end

  defp lose({ref, _place}, %{kind: :circuit_breaker} = server) do
    with {place, _pid, call} <- take(server, ref) do
      {breaker, changed} = Breaker.lose(state(server, place), server.config, ref, call, now())
      put(server, place, breaker)
      target = Instance.target(server.name, place)
      # Handlers may block, and others wait for this process.
      if changed != [], do: spawn(fn -> Events.emit(target, changed) end)
    end

    server
  end

  ## Waiting

  defp acquire(server, place, pool, {ref, pid, weight} = waiter, from, deadline) do
    case Pool.acquire(pool, server.config, waiter, deadline != :none) do
      {:granted, pool} ->
        :ets.insert(@table, {{:held, server.name, ref}, place, pid, weight})
        put(server, place, pool)
        {:reply, {:granted, ref}, watch(server, pid, ref, place)}

      {:waits, pool} ->
        put(server, place, pool)
        server = watch(server, pid, ref, place)
        {:noreply, await(server, place, ref, from, deadline)}

      {:full, pool} ->
        put(server, place, pool)
        {:reply, :full, server}
    end
  end

  defp await(server, place, ref, from, deadline) do
    server = stop_waiting(server, ref)
    %{server | waiting: Map.put(server.waiting, ref, {from, timer(place, ref, deadline)})}
  end

  defp timer(_place, _ref, :infinity), do: nil

  defp timer(place, ref, deadline) do
    ms = max(deadline - System.monotonic_time(:millisecond), 0)
    Process.send_after(self(), {:wait_over, place, ref}, ms)
  end

  defp stop_waiting(server, ref) do
    case Map.pop(server.waiting, ref) do
      {{_from, timer}, waiting} ->
        if timer, do: Process.cancel_timer(timer)
        %{server | waiting: waiting}

      {nil, _waiting} ->
        server
    end
  end

  defp serve(server, place) do
    {served, pool} = Pool.serve(state(server, place), server.config)

    # Before the pool: a kill in between counts them when the successor restores it.
    for {:granted, {ref, pid, weight}} <- served,
        do: :ets.insert(@table, {{:held, server.name, ref}, place, pid, weight})

    if known?(server, place), do: put(server, place, pool)
    tell(server, place, served)
  end

  # A waiter that has not asked this server yet, but its predecessor, is answered when it does.
  defp tell(server, _place, served) do
    Enum.reduce(served, server, fn {answer, {ref, pid, _weight}}, server ->
      with %{^ref => {from, _timer}} <- server.waiting,
           do: GenServer.reply(from, if(answer == :granted, do: {:granted, ref}, else: :full))

      server = stop_waiting(server, ref)
      if answer == :granted, do: server, else: unwatch(server, pid, ref)
    end)
  end

  ## Keys

  # The state of a place, which has room made for it if it is a new key.
  defp fetch(server, place) do
    cond do
      place == :bare or known?(server, place) ->
        {:ok, state(server, place), server}

      server.count < server.config.max_keys ->
        keys = :queue.in(place, server.keys)
        {:ok, new(server), %{server | keys: keys, count: server.count + 1}}

      true ->
        case make_room(server, now()) do
          {:ok, server} -> fetch(server, place)
          {:none, server} -> {:reply, :max_keys, server}
        end
    end
  end

  defp make_room(%{idle_from: idle_from} = server, now) when idle_from > now, do: {:none, server}
  defp make_room(server, now), do: make_room(server, now, server.count, :busy)

  # Each has been looked at: until one is given back, or the first time is over, none is idle.
  defp make_room(server, _now, 0, idle_from), do: {:none, %{server | idle_from: idle_from}}

  defp make_room(server, now, left, earliest) do
    {{:value, place}, keys} = :queue.out(server.keys)
    state = state(server, place)

    case Map.fetch!(@states, server.kind).idle_from(state, server.config, now) do
      from when is_integer(from) and from <= now ->
        :ets.delete(@table, {:state, server.name, place})
        {:ok, %{server | keys: keys, count: server.count - 1}}

      # An atom is after every number.
      from ->
        server = %{server | keys: :queue.in(place, keys)}
        make_room(server, now, left - 1, min(earliest, from))
    end
  end

  # Something was given back: a key may be idle now.
  defp freed(server), do: %{server | idle_from: 0}

  defp known?(server, place), do: :ets.member(@table, {:state, server.name, place})

  defp state(server, place) do
    case :ets.lookup(@table, {:state, server.name, place}) do
      [{_key, state}] -> state
      [] -> new(server)
    end
  end

  defp new(server), do: struct!(Map.fetch!(@states, server.kind))

  defp put(server, place, state), do: :ets.insert(@table, {{:state, server.name, place}, state})

  defp take(server, ref) do
    case :ets.take(@table, {:held, server.name, ref}) do
      [{_key, place, pid, data}] -> {place, pid, data}
      [] -> nil
    end
  end

  ## Monitors: one for each process, for as long as it holds or waits for something

  defp watch(server, pid, ref, place) do
    {monitor, refs} = Map.get_lazy(server.monitors, pid, fn -> {Process.monitor(pid), %{}} end)

    %{server | monitors: Map.put(server.monitors, pid, {monitor, Map.put(refs, ref, place)})}
  end

  defp unwatch(server, pid, ref) do
    case server.monitors do
      %{^pid => {monitor, refs}} ->
        refs = Map.delete(refs, ref)

        if refs == %{} do
          Process.demonitor(monitor, [:flush])
          %{server | monitors: Map.delete(server.monitors, pid)}
        else
          %{server | monitors: Map.put(server.monitors, pid, {monitor, refs})}
        end

      %{} ->
        server
    end
  end

  defp with_changes(answer, []), do: answer
  defp with_changes(answer, changed), do: {:changed, answer, changed}

  # From the start of the VM, so that it is never negative.
  defp now do
    native = :erlang.monotonic_time() - :erlang.system_info(:start_time)
    System.convert_time_unit(native, :native, :nanosecond)
  end
end
