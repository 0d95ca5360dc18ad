defmodule Bench.SchedulerServices do
  @moduledoc false
  # The operations of bulkheads, circuit breakers, rate limiters and event logs, for the probe of
  # the `scheduler` row: many keys, waiters, booked slots, streams and events.

  alias Foundation.{Bulkhead, CircuitBreaker, EventLog, HealthCheck, Native, RateLimiter}
  alias Bench.Tables

  @bulkhead Bench.Bulkhead
  @breaker Bench.Breaker
  @limiter Bench.Limiter
  @log Bench.Log
  @hour 3_600_000
  @most 4_294_967_295

  @doc "Measures with 100,000 keys. `measure` is given a name and a function."
  def resilience(size, measure) do
    keys = min(size, 100_000)
    options = [max_keys: keys]
    {:ok, _} = Bulkhead.start_link([name: @bulkhead, max: @most, queue: @most] ++ options)
    {:ok, _} = CircuitBreaker.start_link([name: @breaker, min_calls: 100] ++ options)
    {:ok, _} = RateLimiter.start_link([name: @limiter, limit: {1_000, @hour}] ++ options)

    bulkheads(keys, measure) ++
      waiters(keys, measure) ++
      breakers(keys, measure) ++
      limiters(keys, measure)
  end

  defp bulkheads(keys, measure) do
    results =
      holding(fn ->
        [
          measure.("bulkhead_acquire", fn call ->
            for key <- 1..keys, do: {:ok, _} = call.(fn -> Bulkhead.acquire({@bulkhead, key}) end)
          end),
          measure.("bulkhead_release", fn call ->
            for key <- 1..div(keys, 2) do
              {:ok, permit} = call.(fn -> Bulkhead.acquire({@bulkhead, key}) end)
              call.(fn -> Bulkhead.release(permit) end)
              call.(fn -> Bulkhead.info({@bulkhead, key}) end)
            end
          end),
          # No key is idle.
          measure.("bulkhead_full", fn call ->
            for key <- 1..10_000, do: call.(fn -> Bulkhead.acquire({@bulkhead, {:new, key}}) end)
          end),
          measure.("resilience_health", fn call -> call.(&HealthCheck.check_resilience/0) end)
        ]
      end)

    exits =
      measure.("bulkhead_exit", fn _call ->
        Tables.stop([results.pid])
        Bench.spin_until(fn -> Bulkhead.info({@bulkhead, keys}).in_use == 0 end)
      end)

    # All keys are idle: each makes room for another.
    room =
      measure.("bulkhead_room", fn call ->
        for key <- 1..keys do
          {:ok, permit} = call.(fn -> Bulkhead.acquire({@bulkhead, {:other, key}}) end)
          call.(fn -> Bulkhead.release(permit) end)
        end
      end)

    results.value ++ [exits, room]
  end

  # Waiters for one permit: served by a larger maximum, or killed.
  defp waiters(keys, measure) do
    count = div(keys, 10)
    :ok = Bulkhead.resize(@bulkhead, 1)
    {:ok, permit} = Bulkhead.acquire(@bulkhead)

    wait = fn ->
      pids = for _ <- 1..count, do: spawn(fn -> wait() end)
      Bench.spin_until(fn -> Bulkhead.info(@bulkhead).waiting == count end)
      pids
    end

    [
      measure.("bulkhead_waiters_exit", fn _call ->
        Tables.stop(wait.())
        Bench.spin_until(fn -> Bulkhead.info(@bulkhead).waiting == 0 end)
      end),
      measure.("bulkhead_resize", fn call ->
        pids = wait.()
        call.(fn -> Bulkhead.resize(@bulkhead, @most) end)
        Bench.spin_until(fn -> Bulkhead.info(@bulkhead).in_use == count + 1 end)
        call.(fn -> Bulkhead.release(permit) end)
        Tables.stop(pids)
        Bench.spin_until(fn -> Bulkhead.info(@bulkhead).in_use == 0 end)
      end)
    ]
  end

  defp wait do
    {:ok, _permit} = Bulkhead.acquire(@bulkhead, wait: :infinity)
    Process.sleep(:infinity)
  end

  defp breakers(keys, measure) do
    results =
      holding(fn ->
        [
          measure.("breaker", fn call ->
            for key <- 1..keys do
              {:ok, permit} = call.(fn -> CircuitBreaker.ask({@breaker, key}) end)
              call.(fn -> CircuitBreaker.record(permit, :error) end)
            end
          end),
          # Each of the last calls makes the process forget an old one.
          measure.("breaker_unrecorded", fn call ->
            for key <- 1..20_000, do: call.(fn -> CircuitBreaker.ask({@breaker, key}) end)
          end),
          measure.("breaker_full", fn call ->
            for key <- 1..10_000, do: call.(fn -> CircuitBreaker.ask({@breaker, {:new, key}}) end)
          end),
          measure.("breaker_health", fn call ->
            for key <- 1..div(keys, 10), do: CircuitBreaker.isolate({@breaker, key})
            call.(&HealthCheck.check_resilience/0)
          end)
        ]
      end)

    exits = measure.("breaker_exit", fn call -> stopped(results.pid, call) end)
    results.value ++ [exits]
  end

  defp stopped(pid, call) do
    Tables.stop([pid])
    call.(fn -> CircuitBreaker.info(@breaker) end)
  end

  defp limiters(keys, measure) do
    [
      measure.("rate", fn call ->
        for key <- 1..keys, do: :ok = call.(fn -> RateLimiter.take({@limiter, key}) end)
      end),
      measure.("rate_full", fn call ->
        for key <- 1..10_000, do: call.(fn -> RateLimiter.take({@limiter, {:new, key}}) end)
      end),
      # Slots of one limit, far into the future. The call that waits would sleep.
      measure.("rate_booked", fn call ->
        for _slot <- 1..keys, do: call.(fn -> Native.limiter_take(@limiter, 1_000, :infinity) end)
        call.(fn -> RateLimiter.take(@limiter, 1_000) end)
      end),
      measure.("rate_settle", fn call ->
        {:reserved, slot, _ms} = Native.limiter_reserve(@limiter, 1_000, :infinity)
        for _ <- 1..100, do: call.(fn -> Native.limiter_settle(@limiter, slot, 1_000, 1) end)
        for _ <- 1..100, do: call.(fn -> RateLimiter.info(@limiter) end)
      end),
      measure.("rate_cost", fn call ->
        cost = List.duplicate({:default, 1}, 1_000_000)
        call.(fn -> RateLimiter.take(@limiter, cost) end)
      end)
    ]
  end

  @doc "Measures an event log of as many events."
  def event_log(size, measure) do
    events = min(size, 200_000)
    dir = Path.join(System.tmp_dir!(), "foundation_scheduler_#{System.pid()}")

    try do
      {:ok, log} = EventLog.start_link(name: @log, dir: Path.join(dir, "log"))
      results = appends(events, measure) ++ reads(measure) ++ removals(measure)
      copy = fn -> EventLog.backup(@log, Path.join(dir, "copy")) end
      whole = measure.("log_whole", fn call -> Enum.each([copy, &verify/0], call) end)
      GenServer.stop(log)
      results ++ [whole]
    after
      File.rm_rf!(dir)
    end
  end

  defp verify, do: :ok = EventLog.verify(@log)

  defp appends(events, measure) do
    large = :binary.copy("x", 10_000_000)

    [
      # A call's events are as many as one can append on a normal scheduler, and more.
      measure.("log_append", fn call ->
        for count <- [1, 1_000, 1_900, 2_100, 20_000], n <- 1..max(1, div(events, 5 * count)) do
          appended = List.duplicate({:small, nil}, count)
          {:ok, _} = call.(fn -> EventLog.append(@log, "stream-#{rem(n, 5_000)}", appended) end)
        end
      end),
      measure.("log_append_large", fn call ->
        for bytes <- [200_000, 260_000, 270_000, 10_000_000] do
          event = {:large, binary_part(large, 0, bytes)}
          {:ok, _} = call.(fn -> EventLog.append(@log, "large", [event]) end)
        end
      end),
      measure.("log_snapshot", fn call ->
        for bytes <- [1_000, 260_000, 10_000_000] do
          :ok =
            call.(fn -> EventLog.put_snapshot(@log, "large", 1, binary_part(large, 0, bytes)) end)

          {:ok, 1, _state} = call.(fn -> EventLog.get_snapshot(@log, "large") end)
        end
      end)
    ]
  end

  defp reads(measure) do
    [
      measure.("log_read", fn call ->
        call.(fn -> EventLog.read(@log, :all, limit: 100_000) end)
        call.(fn -> EventLog.read(@log, "stream-1", limit: 100_000, direction: :backward) end)
        call.(fn -> @log |> EventLog.stream(:all) |> Stream.run() end)
        for n <- 1..1_000, do: call.(fn -> EventLog.version(@log, "stream-#{n}") end)
        call.(fn -> @log |> EventLog.streams() |> Enum.count() end)
        for _ <- 1..100, do: call.(fn -> EventLog.info(@log) end)
      end),
      measure.("log_subscribe", fn call ->
        for n <- 1..300 do
          {:ok, subscription} =
            call.(fn -> EventLog.subscribe(@log, :all, "name-#{n}", max_in_flight: 10) end)

          receive do
            {:events, ^subscription, [event | _]} ->
              call.(fn -> EventLog.ack(subscription, event) end)
          end
        end

        call.(fn -> Native.event_log_subscriptions(@log) end)
        for n <- 1..300, do: call.(fn -> EventLog.delete_subscription(@log, "name-#{n}") end)
      end)
    ]
  end

  defp removals(measure) do
    [
      measure.("log_remove", fn call ->
        call.(fn -> EventLog.trim(@log, "stream-1", before: 10_000) end)
        call.(fn -> EventLog.delete_stream(@log, "stream-1") end)
      end)
    ]
  end

  # A process that holds what `fun` acquires, and what `fun` returned.
  defp holding(fun) do
    caller = self()

    pid =
      spawn(fn ->
        send(caller, {:held, self(), fun.()})
        Process.sleep(:infinity)
      end)

    receive do
      {:held, ^pid, value} -> %{pid: pid, value: value}
    end
  end
end
