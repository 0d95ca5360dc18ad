defmodule Foundation.ResilienceTest do
  use Foundation.Conformance.Resilience

  alias Foundation.{ErrorContext, Resilience, Timeout}
  alias Foundation.Telemetry.Span

  doctest Foundation.Resilience

  test "without a part it is the function's call" do
    assert Resilience.run([], fn -> 42 end) == 42
  end

  conform "each attempt passes all parts again", %{engine: engine} do
    limiter = start!(RateLimiter, engine, limit: {3, 600_000})
    breaker = start!(CircuitBreaker, engine, min_calls: 100)
    bulkhead = start!(Bulkhead, engine, max: 1)

    policy = [
      retry: [max_attempts: 3, base_ms: 0],
      rate_limiter: limiter,
      circuit_breaker: breaker,
      bulkhead: bulkhead,
      timeout: 60_000
    ]

    assert Resilience.run(policy, fn -> {:error, Bulkhead.info(bulkhead).in_use} end) ==
             {:error, 1}

    assert RateLimiter.info(limiter).taken == 3
    assert %{calls: 3, failures: 3} = CircuitBreaker.info(breaker)
    assert %{granted: 3, in_use: 0} = Bulkhead.info(bulkhead)
    policy = Keyword.delete(policy, :retry)

    assert {:error, %Rejected{by: :rate_limiter}} =
             Resilience.run(policy, fn -> flunk("called") end)

    assert CircuitBreaker.info(breaker).calls == 3
  end

  conform "a full bulkhead is no failure of the service, a timeout is", %{engine: engine} do
    breaker = start!(CircuitBreaker, engine, min_calls: 100)
    bulkhead = start!(Bulkhead, engine, max: 1)
    policy = [circuit_breaker: breaker, bulkhead: [name: bulkhead, weight: 1], timeout: 10]
    {:ok, permit} = Bulkhead.acquire(bulkhead)
    assert {:error, %Rejected{by: :bulkhead}} = Resilience.run(policy, fn -> 1 end)
    assert CircuitBreaker.info(breaker).calls == 0
    Bulkhead.release(permit)

    assert Resilience.run(policy, fn -> Process.sleep(:infinity) end) ==
             {:error, %Timeout{ms: 10}}

    assert %{calls: 1, failures: 1} = CircuitBreaker.info(breaker)
    assert Bulkhead.info(bulkhead).in_use == 0
  end

  test "the function is killed when its time is over, and nothing is left of it" do
    before = Process.info(self(), [:links, :monitors, :monitored_by, :messages])
    refute Process.alive?(timed_out())
    assert Resilience.run([timeout: 60_000], fn -> 42 end) == 42
    assert Process.info(self(), [:links, :monitors, :monitored_by, :messages]) == before
  end

  # Returns the process of a function that ran until its time was over. On a busy machine the time
  # can be over before the function begins.
  defp timed_out do
    test = self()

    result =
      Resilience.run([timeout: 10], fn ->
        send(test, {:runs, self()})
        Process.sleep(:infinity)
      end)

    assert result == {:error, %Timeout{ms: 10}}

    receive do
      {:runs, runner} -> runner
    after
      0 -> timed_out()
    end
  end

  test "what the function raises, throws and exits with is the caller's" do
    run = fn fun -> Resilience.run([timeout: 60_000], fun) end
    assert_raise RuntimeError, "x", fn -> run.(fn -> raise "x" end) end
    assert catch_throw(run.(fn -> throw(:x) end)) == :x
    assert catch_exit(run.(fn -> exit(:x) end)) == :x
    assert catch_exit(run.(fn -> Process.exit(self(), :kill) end)) == :killed
  end

  test "the function's process dies with its caller, however that ends" do
    for reason <- [:kill, :shutdown, :normal] do
      test = self()

      caller =
        spawn(fn ->
          Resilience.run([timeout: 60_000], fn ->
            send(test, {:runs, self()})
            Process.sleep(:infinity)
          end)
        end)

      assert_receive {:runs, runner}, 60_000
      ref = Process.monitor(runner)
      if reason == :normal, do: kill(caller, :kill), else: kill(caller, reason)
      assert_receive {:DOWN, ^ref, :process, ^runner, :killed}, 60_000
    end
  end

  test "error context and span are those of the caller" do
    ErrorContext.with_context(%{request: 1}, fn ->
      Span.with_span_fun(:outer, %{}, fn ->
        trace = Span.current_trace_id()

        assert Resilience.run([timeout: 60_000], fn ->
                 {ErrorContext.get_context(), Span.current_trace_id()}
               end) == {%{request: 1}, trace}
      end)
    end)
  end

  test "wrong policies raise" do
    for policy <- [
          :wrong,
          [timeout: -1],
          [retry: :wrong],
          [retries: []],
          [bulkhead: [wait: 1]],
          [bulkhead: [name: :x, wieght: 1]],
          [rate_limiter: [cost: 1]],
          [rate_limiter: "name"],
          [circuit_breaker: :unknown_breaker],
          [bulkhead: :unknown_bulkhead]
        ] do
      assert_raise ArgumentError, fn -> Resilience.run(policy, fn -> flunk("called") end) end
    end

    assert_raise ArgumentError, fn -> Resilience.run([], :fun) end
  end

  test "rejections and timeouts have a message" do
    rejected = %Rejected{
      by: :rate_limiter,
      name: {A, 1},
      reason: :rate_limited,
      retry_after_ms: 5
    }

    assert Exception.message(rejected) ==
             "rate limiter {A, 1} rejected the call: the limit is used up (retry after 5 ms)"

    assert Exception.message(%Timeout{ms: 5}) == "the call did not end within 5 ms"
  end
end
