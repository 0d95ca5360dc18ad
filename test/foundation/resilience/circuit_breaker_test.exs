defmodule Foundation.CircuitBreakerTest do
  use Foundation.Conformance.Resilience

  doctest Foundation.CircuitBreaker
  doctest Foundation.ResilienceSupervisor

  @quick [
    window: {:count, 10},
    min_calls: 2,
    open_ms: 1,
    max_open_ms: 60_000,
    jitter: 0,
    probes: 2
  ]

  defp fail(name, times), do: for(_ <- 1..times, do: CircuitBreaker.run(name, fn -> :error end))

  # Open, with its time over.
  defp open!(name, times \\ 2) do
    fail(name, times)
    assert CircuitBreaker.state(name) == :open
    eventually(fn -> CircuitBreaker.info(name).retry_after_ms == 0 end)
  end

  defp events(name) do
    test = self()
    id = {__MODULE__, name, make_ref()}

    events =
      for event <- [:open, :half_open, :close, :isolate],
          do: [:foundation, :circuit_breaker, event]

    :telemetry.attach_many(id, events, &__MODULE__.handle/4, {test, name})
    on_exit(fn -> :telemetry.detach(id) end)
  end

  def handle([_, _, event], measurements, metadata, {test, name}) do
    if metadata.name == name, do: send(test, {event, measurements})
  end

  conform "it opens at the call that reaches the failure rate, with enough calls", %{
    engine: engine
  } do
    name = start!(CircuitBreaker, engine, window: {:count, 10}, min_calls: 4, open_ms: 60_000)
    for _ <- 1..2, do: CircuitBreaker.run(name, fn -> :ok end)
    fail(name, 1)
    assert CircuitBreaker.state(name) == :closed
    fail(name, 1)
    assert CircuitBreaker.state(name) == :open

    assert {:error, %Rejected{by: :circuit_breaker, name: ^name, reason: :open} = rejected} =
             CircuitBreaker.run(name, fn -> flunk("it is called") end)

    assert rejected.retry_after_ms in 1..66_000

    assert %{
             state: :open,
             calls: 4,
             failures: 2,
             slow: 0,
             failure_rate: 0.5,
             slow_rate: slow_rate,
             rejected: 1,
             opened: 1,
             probes: 0
           } = CircuitBreaker.info(name)

    assert slow_rate == 0
  end

  conform "a count window forgets its oldest call", %{engine: engine} do
    name = start!(CircuitBreaker, engine, window: {:count, 3}, min_calls: 3, failure_rate: 1.0)
    fail(name, 2)
    for _ <- 1..3, do: CircuitBreaker.run(name, fn -> :ok end)
    assert %{calls: 3, failures: 0} = CircuitBreaker.info(name)
    fail(name, 2)
    assert CircuitBreaker.state(name) == :closed
    fail(name, 1)
    assert CircuitBreaker.state(name) == :open
  end

  conform "a time window forgets calls that are older", %{engine: engine} do
    name = start!(CircuitBreaker, engine, window: {:time, 50}, min_calls: 100)
    fail(name, 3)
    eventually(fn -> CircuitBreaker.info(name).calls == 0 end)
  end

  conform "slow calls open it", %{engine: engine} do
    name =
      start!(CircuitBreaker, engine, min_calls: 2, window: {:count, 4}, slow_ms: 0, slow_rate: 1)

    for _ <- 1..2, do: CircuitBreaker.run(name, fn -> :ok end)
    assert %{state: :open, slow: 2, failures: 0, slow_rate: 1.0} = CircuitBreaker.info(name)
  end

  conform "good probes close it, and its window is empty then", %{engine: engine} do
    name = start!(CircuitBreaker, engine, @quick)
    events(name)
    open!(name)
    assert_received {:open, %{calls: 2, failures: 2, slow: 0, open_ms: 1}}
    {:ok, one} = CircuitBreaker.ask(name)
    assert_received {:half_open, %{open_ms: 1}}
    assert CircuitBreaker.state(name) == :half_open
    {:ok, two} = CircuitBreaker.ask(name)
    assert {:error, %Rejected{reason: :probing}} = CircuitBreaker.ask(name)
    assert CircuitBreaker.info(name).probes == 2
    CircuitBreaker.record(one, :ok)
    assert CircuitBreaker.state(name) == :half_open
    CircuitBreaker.record(two, :ok)
    assert %{state: :closed, calls: 0, opened: 1, probes: 0} = CircuitBreaker.info(name)
    assert_received {:close, %{calls: 0}}
  end

  conform "one bad probe opens it for twice as long", %{engine: engine} do
    name = start!(CircuitBreaker, engine, Keyword.put(@quick, :open_ms, 20))
    events(name)
    open!(name)
    assert_received {:open, %{open_ms: 20}}
    fail(name, 1)
    assert_received {:open, %{open_ms: 40}}
    assert CircuitBreaker.info(name).opened == 2
    assert CircuitBreaker.info(name).retry_after_ms in 0..40
  end

  conform "an ignored probe gives its place back and decides nothing", %{engine: engine} do
    name = start!(CircuitBreaker, engine, @quick)
    open!(name)

    for _ <- 1..5 do
      {:ok, permit} = CircuitBreaker.ask(name)
      assert CircuitBreaker.record(permit, :ignore) == :ok
    end

    assert %{state: :half_open, probes: 0} = CircuitBreaker.info(name)
  end

  conform "a probe whose process dies has failed, and its event is emitted", %{engine: engine} do
    name = start!(CircuitBreaker, engine, @quick)
    events(name)
    open!(name)
    assert_received {:open, _measurements}
    worker = start_worker()
    assert {:ok, _permit} = run(worker, fn -> CircuitBreaker.ask(name) end)
    assert CircuitBreaker.state(name) == :half_open
    kill(worker)
    eventually(fn -> CircuitBreaker.info(name).opened == 2 end)
    assert_receive {:open, %{open_ms: 2}}
  end

  conform "a probe that its process forgets expires, and is no failure", %{engine: engine} do
    name = start!(CircuitBreaker, engine, [probe_timeout_ms: 20] ++ @quick)
    open!(name)
    {:ok, late} = CircuitBreaker.ask(name)
    {:ok, _forgotten} = CircuitBreaker.ask(name)
    eventually(fn -> CircuitBreaker.info(name).probes == 0 end)
    assert CircuitBreaker.record(late, :error) == :ok
    assert CircuitBreaker.state(name) == :half_open
    for _ <- 1..2, do: CircuitBreaker.run(name, fn -> :ok end)
    assert CircuitBreaker.state(name) == :closed
  end

  conform "a call counts only in the state in which it was admitted, and once", %{engine: engine} do
    name = start!(CircuitBreaker, engine, @quick)
    {:ok, early} = CircuitBreaker.ask(name)
    {:ok, twice} = CircuitBreaker.ask(name)
    for _ <- 1..2, do: assert(CircuitBreaker.record(twice, :ok) == :ok)
    assert CircuitBreaker.info(name).calls == 1
    CircuitBreaker.reset(name)
    CircuitBreaker.record(early, :error)
    assert CircuitBreaker.info(name).calls == 0
  end

  conform "a process that asks and never records has a bounded number of calls out", %{
    engine: engine
  } do
    name = start!(CircuitBreaker, engine, window: {:count, 100_000}, min_calls: 100_000)
    [{:ok, first} | others] = for _ <- 1..20_001, do: CircuitBreaker.ask(name)
    CircuitBreaker.record(first, :ok)
    assert CircuitBreaker.info(name).calls == 0
    {:ok, last} = List.last(others)
    CircuitBreaker.record(last, :ok)
    assert CircuitBreaker.info(name).calls == 1
    for {:ok, permit} <- others, do: CircuitBreaker.record(permit, :ok)
    assert CircuitBreaker.info(name).calls in 5_000..10_100
    # No call is out, so the key is idle: nothing was lost count of.
    keyed = start!(CircuitBreaker, engine, max_keys: 1)
    permits = for _ <- 1..10_100, do: CircuitBreaker.ask({keyed, :a})
    assert {:error, %Rejected{reason: :max_keys}} = CircuitBreaker.ask({keyed, :b})
    for {:ok, permit} <- permits, do: CircuitBreaker.record(permit, :ok)
    assert {:ok, _permit} = CircuitBreaker.ask({keyed, :b})
  end

  conform "isolate/1 rejects until reset/1", %{engine: engine} do
    name = start!(CircuitBreaker, engine, @quick)
    events(name)
    assert CircuitBreaker.isolate(name) == :ok
    assert_received {:isolate, _measurements}

    assert {:error, %Rejected{reason: :isolated, retry_after_ms: nil}} =
             CircuitBreaker.run(name, fn -> 1 end)

    assert CircuitBreaker.reset(name) == :ok
    assert_received {:close, _measurements}
    assert CircuitBreaker.run(name, fn -> 1 end) == 1
  end

  conform "outcomes are classified", %{engine: engine} do
    name = start!(CircuitBreaker, engine, min_calls: 100)
    assert CircuitBreaker.run(name, fn -> {:error, :x} end) == {:error, :x}
    assert catch_error(CircuitBreaker.run(name, fn -> raise "x" end)).message == "x"
    assert catch_throw(CircuitBreaker.run(name, fn -> throw(:x) end)) == :x
    assert catch_exit(CircuitBreaker.run(name, fn -> exit(:x) end)) == :x
    assert %{calls: 4, failures: 4} = CircuitBreaker.info(name)
    rejected = {:error, %Rejected{by: :bulkhead, name: :x, reason: :full}}
    assert CircuitBreaker.run(name, fn -> rejected end) == rejected
    assert %{calls: 4} = CircuitBreaker.info(name)

    classify = fn
      {:return, {:error, :not_found}} -> :ok
      {:raise, %ArgumentError{}} -> :ignore
      {:return, :bad} -> :wrong
      _other -> :error
    end

    own = start!(CircuitBreaker, engine, min_calls: 100, classify: classify)
    assert CircuitBreaker.run(own, fn -> {:error, :not_found} end) == {:error, :not_found}

    assert_raise ArgumentError, "x", fn ->
      CircuitBreaker.run(own, fn -> raise ArgumentError, "x" end)
    end

    assert CircuitBreaker.run(own, fn -> :ok end) == :ok
    assert %{calls: 2, failures: 1} = CircuitBreaker.info(own)
    assert_raise ArgumentError, ~r/:classify/, fn -> CircuitBreaker.run(own, fn -> :bad end) end
    assert %{calls: 3, failures: 2} = CircuitBreaker.info(own)
  end

  conform "a key has a breaker of its own, and an idle one makes room", %{engine: engine} do
    name = start!(CircuitBreaker, engine, [max_keys: 2] ++ @quick)
    open!({name, :a})
    assert CircuitBreaker.state({name, :b}) == :closed
    assert CircuitBreaker.run({name, :b}, fn -> :ok end) == :ok
    assert CircuitBreaker.run({name, :c}, fn -> :error end) == :error
    assert {:error, %Rejected{reason: :max_keys}} = CircuitBreaker.ask({name, :d})
    assert {:error, %Rejected{reason: :max_keys}} = CircuitBreaker.isolate({name, :d})
    assert CircuitBreaker.state(name) == :closed
    assert CircuitBreaker.reset({name, :c}) == :ok
    assert {:ok, _permit} = CircuitBreaker.ask({name, :d})
    assert CircuitBreaker.state({name, :a}) == :open
  end

  conform "the state survives a kill of the owner", %{engine: engine} do
    name = start!(CircuitBreaker, engine, Keyword.put(@quick, :open_ms, 60_000))
    fail(name, 1)
    {:ok, out} = CircuitBreaker.ask(name)
    kill_owner(name)
    assert %{calls: 1, failures: 1} = CircuitBreaker.info(name)
    CircuitBreaker.record(out, :error)
    assert CircuitBreaker.state(name) == :open
    kill_owner(name)
    assert {:error, %Rejected{reason: :open}} = CircuitBreaker.ask(name)
  end

  conform "other options keep the state", %{engine: engine} do
    name = unique_name("breaker")
    owner = start_worker()

    start = fn options ->
      run(owner, fn ->
        {:ok, pid} = CircuitBreaker.start_link([name: name, engine: engine] ++ options)
        Process.unlink(pid)
        pid
      end)
    end

    first = start.(window: {:count, 10}, min_calls: 10)
    fail(name, 3)
    kill(first)
    second = start.(window: {:count, 20}, min_calls: 4)
    assert %{calls: 3, failures: 3} = CircuitBreaker.info(name)
    fail(name, 1)
    assert CircuitBreaker.state(name) == :open
    GenServer.stop(second)
    assert_raise ArgumentError, ~r/unknown circuit breaker/, fn -> CircuitBreaker.state(name) end
  end

  conform "wrong options and arguments raise", %{engine: engine} do
    name = unique_name("breaker")

    for options <- [
          [window: {:count, 0}],
          [window: 10],
          [window: {:calls, 10}],
          [min_calls: 11, window: {:count, 10}],
          [failure_rate: 0],
          [failure_rate: 1.5],
          [slow_ms: -1],
          [jitter: 2],
          [probes: 0],
          [classify: fn -> :ok end],
          [open: 1]
        ] do
      assert_raise ArgumentError, fn -> CircuitBreaker.start_link([name: name] ++ options) end
    end

    assert_raise ArgumentError, fn -> CircuitBreaker.start_link([]) end
    assert_raise ArgumentError, fn -> CircuitBreaker.start_link(:wrong) end
    name = start!(CircuitBreaker, engine, window: {:count, 10})

    for wrong <- ["name", 1, {name, 1, 2}, {"name", 1}, [], %{}, nil, :unknown_breaker],
        call <- [:ask, :state, :info, :isolate, :reset] do
      assert_raise ArgumentError, fn -> apply(CircuitBreaker, call, [wrong]) end
    end

    {:ok, permit} = CircuitBreaker.ask(name)
    assert_raise ArgumentError, fn -> CircuitBreaker.record(permit, :good) end
    assert_raise ArgumentError, fn -> CircuitBreaker.record(:permit, :ok) end
    assert_raise ArgumentError, fn -> CircuitBreaker.run(name, :fun) end
  end
end
