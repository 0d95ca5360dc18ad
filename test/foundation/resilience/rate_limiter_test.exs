defmodule Foundation.RateLimiterTest do
  use Foundation.Conformance.Resilience

  doctest Foundation.RateLimiter

  @long 600_000

  for algorithm <- [:sliding_window, :token_bucket] do
    conform "a #{algorithm} lets through its limit at once, and no more", %{engine: engine} do
      limiter = [limit: {5, @long}, algorithm: unquote(algorithm)]
      name = start!(RateLimiter, engine, limiter)
      for _ <- 1..5, do: assert(RateLimiter.take(name) == :ok)

      assert {:error, %Rejected{by: :rate_limiter, name: ^name, reason: :rate_limited} = rejected} =
               RateLimiter.take(name)

      assert rejected.retry_after_ms in 1..(@long + 5_000)

      assert %{
               limits: %{default: %{limit: 5, per_ms: @long, used: 5, available: 0} = figures},
               taken: 5,
               rejected: 1
             } = RateLimiter.info(name)

      assert figures.reset_ms in 1..(@long + 5_000)
    end

    conform "a #{algorithm} gives back what was not used, and remembers a debt", %{
      engine: engine
    } do
      limiter = [limit: {100, @long}, algorithm: unquote(algorithm)]
      name = start!(RateLimiter, engine, limiter)
      {:ok, less} = RateLimiter.reserve(name, 60)
      {:ok, more} = RateLimiter.reserve(name, 40)
      assert {:error, %Rejected{}} = RateLimiter.reserve(name, 1)
      assert RateLimiter.settle(less, 20) == :ok
      assert RateLimiter.settle(less, 0) == :ok
      assert RateLimiter.info(name).limits.default.used in 59..60
      assert RateLimiter.settle(more, 140) == :ok
      assert %{used: used, available: 0} = RateLimiter.info(name).limits.default
      assert used in 159..160
      assert {:error, %Rejected{reason: :rate_limited}} = RateLimiter.take(name)
    end

    conform "a #{algorithm} admits again after the time that it says", %{engine: engine} do
      name = start!(RateLimiter, engine, limit: {2, 1_000}, algorithm: unquote(algorithm))
      assert RateLimiter.take(name, 2) == :ok
      assert {:error, %Rejected{retry_after_ms: ms}} = RateLimiter.take(name, 2)
      Process.sleep(ms)
      assert RateLimiter.take(name, 2) == :ok
    end
  end

  conform "several limits are taken all or none", %{engine: engine} do
    limits = [requests: {10, @long}, tokens: {100, @long}]
    name = start!(RateLimiter, engine, limits: limits)
    assert RateLimiter.take(name, requests: 1, tokens: 90) == :ok

    assert {:error, %Rejected{reason: :rate_limited}} =
             RateLimiter.take(name, requests: 1, tokens: 20)

    assert RateLimiter.take(name, tokens: 10) == :ok

    assert %{requests: %{used: 1}, tokens: %{used: 100, available: 0}} =
             RateLimiter.info(name).limits

    assert {:error, %Rejected{reason: :exceeds_limit, retry_after_ms: nil}} =
             RateLimiter.take(name, tokens: 101)

    assert_raise ArgumentError, fn -> RateLimiter.take(name, 1) end
    assert_raise ArgumentError, fn -> RateLimiter.take(name, seconds: 1) end
    assert RateLimiter.info(name).limits.requests.used == 1
  end

  conform "a caller that waits gets the next slot, and nobody overtakes it", %{engine: engine} do
    name = start!(RateLimiter, engine, limit: {1, 1_000})
    assert RateLimiter.take(name) == :ok
    assert {:error, %Rejected{reason: :rate_limited}} = RateLimiter.take(name, 1, wait: 1)
    started = System.monotonic_time(:millisecond)
    test = self()
    worker = start_worker()
    take = fn -> send(test, {:taken, RateLimiter.take(name, 1, wait: 60_000)}) end
    send(worker, {:run, test, make_ref(), take})
    eventually(fn -> RateLimiter.info(name).limits.default.used == 2 end)
    assert {:error, %Rejected{retry_after_ms: ms}} = RateLimiter.take(name)
    assert ms > 1_000
    assert RateLimiter.take(name, 1, wait: 60_000) == :ok
    assert System.monotonic_time(:millisecond) - started >= 1_999
    assert_received {:taken, :ok}
  end

  conform "a caller sleeps for a slot that is further away than a receive can wait", %{
    engine: engine
  } do
    name = start!(RateLimiter, engine, limit: {1, 31 * 86_400_000})

    for n <- 1..3 do
      worker = start_worker()

      send(
        worker,
        {:run, self(), make_ref(), fn -> RateLimiter.take(name, 1, wait: :infinity) end}
      )

      eventually(fn -> RateLimiter.info(name).limits.default.used == n end)
      if n > 1, do: eventually(fn -> sleeps?(worker) end)
    end
  end

  defp sleeps?(worker) do
    {:current_stacktrace, stacktrace} = Process.info(worker, :current_stacktrace)

    Enum.any?(stacktrace, fn {module, function, _arity, _where} ->
      {module, function} in [{Process, :sleep}, {Foundation.Resilience.Sleep, :sleep}]
    end)
  end

  conform "no window has more than the limit, with 50 callers", %{engine: engine} do
    {limit, per} = {20, 100}
    name = start!(RateLimiter, engine, limit: {limit, per})
    test = self()

    for n <- 1..50 do
      spawn_link(fn ->
        options = if rem(n, 25) == 0, do: [wait: 100], else: []
        taken = for _ <- 1..60, span <- attempt(name, options), do: span
        send(test, {:spans, taken})
      end)
    end

    spans = Enum.flat_map(1..50, fn _ -> assert_receive({:spans, taken}, 60_000) && taken end)
    assert length(spans) > 2 * limit

    # A call took effect between its begin and its end. Of those that lie wholly in a window, no
    # more than the limit may have.
    per = System.convert_time_unit(per, :millisecond, :native)

    for {from, _until} <- spans do
      inside = Enum.count(spans, fn {begun, ended} -> begun >= from and ended < from + per end)
      assert inside <= limit
    end
  end

  # A caller that waits can wake up late, so its time does not show when its slot was. Its slot
  # competes with the others all the same.
  defp attempt(name, options) do
    begun = System.monotonic_time()

    case RateLimiter.take(name, 1, options) do
      :ok when options == [] ->
        [{begun, System.monotonic_time()}]

      :ok ->
        []

      {:error, %Rejected{retry_after_ms: ms}} ->
        Process.sleep(min(ms, 10))
        []
    end
  end

  conform "a key has limits of its own, and an idle one makes room", %{engine: engine} do
    name = start!(RateLimiter, engine, limit: {1, 100}, max_keys: 2)
    assert RateLimiter.take({name, "a"}) == :ok
    assert {:error, %Rejected{reason: :rate_limited}} = RateLimiter.take({name, "a"})
    assert RateLimiter.take({name, "b"}) == :ok
    assert RateLimiter.take(name) == :ok
    assert {:error, %Rejected{reason: :max_keys}} = RateLimiter.take({name, "c"})
    eventually(fn -> RateLimiter.take({name, "c"}) == :ok end)
  end

  conform "what is used survives a kill of the owner", %{engine: engine} do
    name = start!(RateLimiter, engine, limit: {2, @long})
    assert RateLimiter.take(name) == :ok
    {:ok, reservation} = RateLimiter.reserve(name, 1)
    kill_owner(name)
    assert {:error, %Rejected{}} = RateLimiter.take(name)
    assert RateLimiter.settle(reservation, 0) == :ok
    assert RateLimiter.take(name) == :ok
  end

  conform "a cost of any size is above the limit", %{engine: engine} do
    name = start!(RateLimiter, engine, limits: [a: {10, @long}, b: {10, @long}])
    single = start!(RateLimiter, engine, limit: {10, @long})

    for cost <- [11, 2 ** 32, 2 ** 63, 2 ** 64 - 1, 2 ** 64, 2 ** 200] do
      exceeds = %Rejected{by: :rate_limiter, name: name, reason: :exceeds_limit}
      assert RateLimiter.take(name, a: 1, b: cost) == {:error, exceeds}
      assert RateLimiter.reserve(name, b: cost) == {:error, exceeds}
      assert RateLimiter.take(single, cost) == {:error, %{exceeds | name: single}}
    end

    for cost <- [-(2 ** 64), 1.0e30] do
      assert_raise ArgumentError, fn -> RateLimiter.take(name, b: cost) end
      assert_raise ArgumentError, fn -> RateLimiter.take(single, cost) end
    end

    assert %{a: %{used: 0}, b: %{used: 0}} = RateLimiter.info(name).limits
  end

  conform "a settled cost of any size is debt, up to 2^32 - 1", %{engine: engine} do
    for algorithm <- [:sliding_window, :token_bucket], cost <- [2 ** 32, 2 ** 64, 2 ** 200] do
      name = start!(RateLimiter, engine, limit: {10, @long}, algorithm: algorithm)
      {:ok, reservation} = RateLimiter.reserve(name, 1)
      assert RateLimiter.settle(reservation, cost) == :ok
      assert %{used: used, available: 0} = RateLimiter.info(name).limits.default
      # A bucket refills meanwhile.
      assert used in (2 ** 32 - 1_000)..(2 ** 32 - 1)
      assert {:error, %Rejected{reason: :rate_limited}} = RateLimiter.take(name)
    end
  end

  conform "wrong options and arguments raise", %{engine: engine} do
    name = unique_name("limiter")

    for options <- [
          [],
          [limit: {0, 1}],
          [limit: 5],
          [limit: {1, 0}],
          [limits: [a: 1]],
          [limits: []],
          [limit: {1, 1}, limits: [a: {1, 1}]],
          [limits: [a: {1, 1}, a: {2, 2}]],
          [limit: {1, 1}, algorithm: :leaky],
          [limit: {1, 1}, limt: 1]
        ] do
      assert_raise ArgumentError, fn -> RateLimiter.start_link([name: name] ++ options) end
    end

    name = start!(RateLimiter, engine, limit: {10, @long})

    for wrong <- ["name", 1, {name, 1, 2}, {"name", 1}, [], %{}, nil, :unknown_limiter] do
      assert_raise ArgumentError, fn -> RateLimiter.take(wrong) end
      assert_raise ArgumentError, fn -> RateLimiter.reserve(wrong, 1) end
      assert_raise ArgumentError, fn -> RateLimiter.info(wrong) end
      assert_raise ArgumentError, fn -> RateLimiter.settle(wrong, 1) end
    end

    {:ok, reservation} = RateLimiter.reserve(name, 1)

    for wrong <- [-1, 1.5, "1", :a, nil, [a: 1], [default: -1], [default: 1.5], [1], %{}] do
      assert_raise ArgumentError, fn -> RateLimiter.take(name, wrong) end
      assert_raise ArgumentError, fn -> RateLimiter.reserve(name, wrong) end
      assert_raise ArgumentError, fn -> RateLimiter.settle(reservation, wrong) end
    end

    for wrong <- [[wait: -1], [wait: 1.5], [wiat: 1], :wrong],
        do: assert_raise(ArgumentError, fn -> RateLimiter.take(name, 1, wrong) end)

    assert RateLimiter.settle(reservation, 3) == :ok
    assert RateLimiter.info(name).limits.default.used == 3
  end
end
