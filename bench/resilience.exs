Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.Resilience do
  @moduledoc false
  # Bulkheads, circuit breakers and rate limiters against the mechanisms of today's packages: a
  # server that monitors the holders of its permits, a flag in ETS, counters in ETS.

  alias Bench.{Row, Tables}
  alias Foundation.{Bulkhead, CircuitBreaker, RateLimiter}

  @ours Bench.Ours
  @theirs Bench.Theirs
  @minute 60_000
  # Never reached, so that every call is admitted.
  @limit 4_000_000_000

  defmodule Semaphore do
    @moduledoc false
    # A process that monitors the holders of its permits, with a queue of waiters.
    use GenServer

    def start_link(max), do: GenServer.start_link(__MODULE__, max)
    def acquire(server), do: GenServer.call(server, :acquire, :infinity)
    def release(server, permit), do: GenServer.call(server, {:release, permit}, :infinity)
    def in_use(server), do: GenServer.call(server, :in_use, :infinity)

    @impl true
    def init(max), do: {:ok, %{max: max, holders: %{}, waiting: :queue.new()}}

    @impl true
    def handle_call(:acquire, from, state) when map_size(state.holders) < state.max do
      {permit, state} = grant(from, state)
      {:reply, {:ok, permit}, state}
    end

    def handle_call(:acquire, from, state),
      do: {:noreply, %{state | waiting: :queue.in(from, state.waiting)}}

    def handle_call({:release, permit}, _from, state) do
      Process.demonitor(permit, [:flush])
      {:reply, :ok, freed(permit, state)}
    end

    def handle_call(:in_use, _from, state), do: {:reply, map_size(state.holders), state}

    @impl true
    def handle_info({:DOWN, permit, :process, _pid, _reason}, state),
      do: {:noreply, freed(permit, state)}

    defp grant({pid, _tag}, state) do
      permit = Process.monitor(pid)
      {permit, %{state | holders: Map.put(state.holders, permit, pid)}}
    end

    defp freed(permit, state) do
      state = %{state | holders: Map.delete(state.holders, permit)}

      case :queue.out(state.waiting) do
        {{:value, from}, waiting} ->
          {permit, state} = grant(from, %{state | waiting: waiting})
          GenServer.reply(from, {:ok, permit})
          state

        {:empty, _waiting} ->
          state
      end
    end
  end

  defmodule Outcomes do
    @moduledoc false
    # A breaker whose state is a row of a table, and a process that counts the last 100 outcomes.
    use GenServer

    @size 100
    @table Bench.Theirs

    def start_link(_options), do: GenServer.start_link(__MODULE__, nil)

    def ask do
      case :ets.lookup(@table, :breaker) do
        [{:breaker, :closed}] -> :ok
        [{:breaker, :open}] -> :open
      end
    end

    def record(server, outcome), do: GenServer.cast(server, {:record, outcome})
    def calls(server), do: GenServer.call(server, :calls, :infinity)

    @impl true
    def init(nil) do
      :ets.new(@table, [:named_table, :public, read_concurrency: true])
      :ets.insert(@table, {:breaker, :closed})
      {:ok, {:queue.new(), 0, 0}}
    end

    @impl true
    def handle_cast({:record, outcome}, {outcomes, calls, failures}) do
      failed = if outcome == :ok, do: 0, else: 1
      outcomes = :queue.in(failed, outcomes)
      {outcomes, calls, failures} = drop({outcomes, calls + 1, failures + failed})
      if calls == @size and failures > 50, do: :ets.insert(@table, {:breaker, :open})
      {:noreply, {outcomes, calls, failures}}
    end

    @impl true
    def handle_call(:calls, _from, {_outcomes, calls, _failures} = state),
      do: {:reply, calls, state}

    defp drop({outcomes, calls, failures}) when calls > @size do
      {{:value, failed}, outcomes} = :queue.out(outcomes)
      {outcomes, calls - 1, failures - failed}
    end

    defp drop(state), do: state
  end

  def rows do
    [
      %Row{
        name: :permit,
        what: "acquire and release a permit",
        theirs: "a GenServer that monitors holders",
        sizes: [1],
        target: {:at_least, 10},
        run: &permit/2
      },
      %Row{
        name: :permit_8p,
        what: "8 processes share 4 permits, 1 µs each",
        theirs: "the same GenServer",
        sizes: [1],
        target: {:at_least, 3},
        run: &permit_8p/2
      },
      %Row{
        name: :permit_death,
        what: "holders are killed, until no permit is out",
        theirs: "the same GenServer",
        growth: [1_000, 10_000, 100_000],
        fills?: true,
        sizes: [10_000],
        quick: [500],
        target: {:at_least, 3},
        run: &permit_death/2
      },
      %Row{
        name: :breaker,
        what: "ask and record, closed, until counted",
        theirs: "ETS lookup and GenServer cast",
        sizes: [1],
        target: {:at_least, 3},
        run: &breaker/2
      },
      %Row{
        name: :breaker_open,
        what: "ask, refused",
        theirs: "ETS lookup of a flag",
        sizes: [1],
        target: {:at_least, 1},
        run: &breaker_open/2
      },
      %Row{
        name: :rate,
        what: "take from a sliding window, by so many keys",
        theirs: "`:ets.update_counter/4` of a fixed window",
        growth: [1_000, 10_000, 100_000],
        sizes: [1, 10_000],
        quick: [1, 100],
        target: {:at_least, 1.5},
        run: &rate/2
      },
      %Row{
        name: :rate_two,
        what: "take from two limits at once",
        theirs: "two `:ets.update_counter/4`",
        sizes: [1],
        target: {:at_least, 2},
        run: &rate_two/2
      }
    ]
  end

  defp permit(_size, context) do
    with_semaphores(1, [], fn theirs ->
      calls = calls(context)
      Bench.check!("acquire", Bulkhead.acquire(@ours, weight: 2) |> elem(0), :error)

      Bench.pinned(fn ->
        Bench.pair(
          context,
          fn _round -> Bench.each(1..calls, &ours_permit/0) end,
          fn _round -> Bench.each(1..calls, fn -> theirs_permit(theirs) end) end
        )
      end)
    end)
  end

  defp ours_permit do
    {:ok, permit} = Bulkhead.acquire(@ours)
    Bulkhead.release(permit)
  end

  defp theirs_permit(server) do
    {:ok, permit} = Semaphore.acquire(server)
    Semaphore.release(server, permit)
  end

  # Time on the clock for each permit of any process.
  defp permit_8p(_size, context) do
    with_semaphores(4, [queue: 8, wait: :infinity], fn theirs ->
      calls = div(calls(context), 8)
      lists = for _process <- 1..8, do: Enum.to_list(1..calls)

      held = fn acquire, release ->
        taken =
          Bench.together(lists, fn _n ->
            {:ok, permit} = acquire.()
            hold()
            release.(permit)
          end)

        taken / (8 * calls)
      end

      result =
        Bench.pair(
          context,
          fn _round -> held.(fn -> Bulkhead.acquire(@ours) end, &Bulkhead.release/1) end,
          fn _round ->
            held.(fn -> Semaphore.acquire(theirs) end, &Semaphore.release(theirs, &1))
          end
        )

      Bench.check!("permits out", {Bulkhead.info(@ours).in_use, Semaphore.in_use(theirs)}, {0, 0})
      result
    end)
  end

  # A microsecond, by the clock.
  defp hold do
    until = :erlang.monotonic_time() + System.convert_time_unit(1, :microsecond, :native)
    hold(until)
  end

  defp hold(until), do: if(:erlang.monotonic_time() < until, do: hold(until), else: :ok)

  # The cost of a death, until no permit is out.
  defp permit_death(size, context) do
    with_semaphores(size, [], fn theirs ->
      deaths = fn acquire, in_use ->
        holders = Tables.owners(List.duplicate(acquire, size))
        Bench.check!("permits out", in_use.(), size)

        taken =
          Bench.time(fn ->
            for pid <- holders, do: Process.exit(pid, :kill)
            Bench.spin_until(fn -> in_use.() == 0 end)
          end)

        # Dead before the other side's turn.
        Tables.stop(holders)
        taken / size
      end

      Bench.pair(
        context,
        fn _round ->
          deaths.(fn -> {:ok, _} = Bulkhead.acquire(@ours) end, fn ->
            Bulkhead.info(@ours).in_use
          end)
        end,
        fn _round ->
          deaths.(fn -> {:ok, _} = Semaphore.acquire(theirs) end, fn ->
            Semaphore.in_use(theirs)
          end)
        end
      )
    end)
  end

  defp breaker(_size, context) do
    with_breakers([window: {:count, 100}], fn theirs ->
      calls = calls(context)

      Bench.pinned(fn ->
        Bench.pair(
          context,
          fn _round ->
            taken = Bench.each(1..calls, &ours_call/0)
            Bench.check!("calls", CircuitBreaker.info(@ours).calls, min(calls, 100))
            taken
          end,
          fn _round ->
            counted =
              Bench.time(fn ->
                for _call <- 1..calls, do: theirs_call(theirs)
                Bench.check!("calls", Outcomes.calls(theirs), min(calls, 100))
              end)

            counted / calls
          end
        )
      end)
    end)
  end

  defp ours_call do
    {:ok, permit} = CircuitBreaker.ask(@ours)
    CircuitBreaker.record(permit, :ok)
  end

  defp theirs_call(server) do
    :ok = Outcomes.ask()
    Outcomes.record(server, :ok)
  end

  defp breaker_open(_size, context) do
    options = [min_calls: 1, window: {:count, 1}, open_ms: 3_600_000, max_open_ms: 3_600_000]

    with_breakers(options, fn _theirs ->
      :error = CircuitBreaker.run(@ours, fn -> :error end)
      :ets.insert(@theirs, {:breaker, :open})
      {:error, rejected} = CircuitBreaker.ask(@ours)
      Bench.check!("reason", {rejected.reason, Outcomes.ask()}, {:open, :open})
      calls = 10 * calls(context)

      Bench.pinned(fn ->
        Bench.pair(
          context,
          fn _round -> Bench.each(1..calls, fn -> CircuitBreaker.ask(@ours) end) end,
          fn _round -> Bench.each(1..calls, fn -> Outcomes.ask() end) end
        )
      end)
    end)
  end

  # With one key it is the bare name's limit.
  defp rate(1, context) do
    with_limiters([limit: {@limit, @minute}], fn ->
      calls = 10 * calls(context)

      rate(context, fn _round -> 1..calls end, fn -> RateLimiter.take(@ours) end, fn ->
        counted(:only, window(), 1)
      end)
    end)
  end

  defp rate(keys, context) do
    with_limiters([limit: {@limit, @minute}], fn ->
      Bench.with_rounds(Bench.keys(:binary, keys), context, fn keys_of ->
        rate(context, keys_of, &RateLimiter.take({@ours, &1}), &counted(&1, window(), 1))
      end)
    end)
  end

  defp rate(context, keys_of, ours, theirs) do
    for fun <- [ours, theirs] do
      taken = if is_function(fun, 0), do: fun.(), else: fun.("user:1")
      Bench.check!("take", taken, :ok)
    end

    Bench.pinned(fn ->
      Bench.pair(context, &Bench.each(keys_of.(&1), ours), &Bench.each(keys_of.(&1), theirs))
    end)
  end

  defp rate_two(_size, context) do
    limits = [requests: {@limit, @minute}, tokens: {@limit, @minute}]

    with_limiters([limits: limits], fn ->
      Bench.check!("take", RateLimiter.take(@ours, requests: 1, tokens: 100), :ok)
      calls = 10 * calls(context)

      theirs = fn ->
        window = window()
        with :ok <- counted(:requests, window, 1), do: counted(:tokens, window, 100)
      end

      Bench.check!("take", theirs.(), :ok)

      Bench.pinned(fn ->
        Bench.pair(
          context,
          fn _round ->
            Bench.each(1..calls, fn -> RateLimiter.take(@ours, requests: 1, tokens: 100) end)
          end,
          fn _round -> Bench.each(1..calls, theirs) end
        )
      end)
    end)
  end

  # A counter for each window of a minute.
  defp window, do: div(System.system_time(:millisecond), @minute)

  defp counted(key, window, cost) do
    row = {key, window}
    used = :ets.update_counter(@theirs, row, {2, cost}, {row, 0})
    if used <= @limit, do: :ok, else: :limited
  end

  defp calls(%{quick?: true}), do: 200
  defp calls(_context), do: 2_000

  defp with_semaphores(max, options, fun) do
    {:ok, ours} = Bulkhead.start_link([name: @ours, max: max] ++ options)
    {:ok, theirs} = Semaphore.start_link(max)

    try do
      fun.(theirs)
    after
      GenServer.stop(theirs)
      GenServer.stop(ours)
    end
  end

  defp with_breakers(options, fun) do
    {:ok, ours} = CircuitBreaker.start_link([name: @ours] ++ options)
    {:ok, theirs} = Outcomes.start_link([])

    try do
      fun.(theirs)
    after
      GenServer.stop(theirs)
      GenServer.stop(ours)
    end
  end

  defp with_limiters(options, fun) do
    {:ok, ours} = RateLimiter.start_link([name: @ours, max_keys: 1_000_000] ++ options)
    :ets.new(@theirs, [:named_table, :public, write_concurrency: true])

    try do
      fun.()
    after
      :ets.delete(@theirs)
      GenServer.stop(ours)
    end
  end
end
