defmodule Foundation.ResilienceHealthTest do
  use Foundation.Conformance.Resilience

  alias Foundation.HealthCheck

  conform "check_resilience/0 lists a bulkhead and its keys while no permit is left", %{
    engine: engine
  } do
    name = start!(Bulkhead, engine, max: 2)
    {:ok, bare} = Bulkhead.acquire(name, weight: 2)
    {:ok, _half} = Bulkhead.acquire({name, :half})
    {:ok, _both} = Bulkhead.acquire({name, "full"}, weight: 2)
    :ok = Bulkhead.resize({name, :half}, 1)

    assert %{owner_alive: true, full: full, full_count: 3} =
             HealthCheck.check_resilience().bulkheads[name]

    assert Enum.sort(full) == Enum.sort([name, {name, :half}, {name, "full"}])

    :ok = Bulkhead.release(bare)
    :ok = Bulkhead.resize({name, :half}, 3)

    assert %{full: [{^name, "full"}], full_count: 1} =
             HealthCheck.check_resilience().bulkheads[name]
  end

  conform "check_resilience/0 counts all full keys, and lists 100", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1)
    for key <- 1..1_700, do: {:ok, _permit} = Bulkhead.acquire({name, key})

    assert %{full: full, full_count: 1_700} = HealthCheck.check_resilience().bulkheads[name]
    assert length(Enum.uniq(full)) == 100
    assert Enum.all?(full, fn {^name, key} -> key in 1..1_700 end)
  end

  conform "check_resilience/0 lists breakers that are not closed, and status/0 stays :ok", %{
    engine: engine
  } do
    name = start!(CircuitBreaker, engine, min_calls: 1, open_ms: 60_000)
    :error = CircuitBreaker.run({name, :failing}, fn -> :error end)
    :ok = CircuitBreaker.isolate(name)
    :fine = CircuitBreaker.run({name, :closed}, fn -> :fine end)

    assert %{owner_alive: true, open: open, open_count: 2} =
             HealthCheck.check_resilience().circuit_breakers[name]

    assert Enum.sort(open) == Enum.sort([{name, :isolated}, {{name, :failing}, :open}])
    assert HealthCheck.check_all().resilience.circuit_breakers[name].open_count == 2
    assert HealthCheck.status() == :ok

    :ok = CircuitBreaker.reset(name)
    :ok = CircuitBreaker.reset({name, :failing})
    assert %{open: [], open_count: 0} = HealthCheck.check_resilience().circuit_breakers[name]
  end

  conform "check_resilience/0 leaves out an instance that has stopped", %{engine: engine} do
    name = start!(RateLimiter, engine, limit: {1, 1_000})
    assert HealthCheck.check_resilience().rate_limiters[name] == %{owner_alive: true}
    stop_supervised!(name)
    refute Map.has_key?(HealthCheck.check_resilience().rate_limiters, name)
  end
end
