defmodule Foundation.BulkheadFaultTest do
  use Foundation.Conformance.Resilience

  @max 5
  @owner_kills 10
  @workers 64

  conform "permits out stay within max while holders, waiters and the owner are killed", %{
    engine: engine
  } do
    name = unique_name("faults")
    child = {Bulkhead, name: name, engine: engine, max: @max, queue: 40, wait: 3}
    options = [strategy: :one_for_one, max_restarts: 1_000]
    start_supervised!(%{id: :faults, start: {Supervisor, :start_link, [[child], options]}})
    done = :atomics.new(1, [])
    keepers = for seed <- 1..@workers, do: Task.async(fn -> keep(name, seed, done) end)

    for _ <- 1..@owner_kills do
      granted = Bulkhead.info(name).granted
      eventually(fn -> Bulkhead.info(name).granted >= granted + 20 end)
      kill_owner(name)
    end

    :atomics.put(done, 1, 1)
    # Found by `info/1`, which reads under the lock of the pool.
    highest = keepers |> Task.await_many(60_000) |> Enum.max()
    assert highest in 1..@max
    eventually(fn -> match?(%{in_use: 0, waiting: 0}, Bulkhead.info(name)) end)
    assert Bulkhead.info(name).reclaimed > 0
    # All are there again.
    assert {:ok, _permit} = Bulkhead.acquire(name, weight: @max)
  end

  # Starts a process that takes permits, kills it, and starts another; returns the most that any of
  # them has seen out.
  defp keep(name, seed, done), do: keep(name, :rand.seed_s(:exsss, seed), done, 0)

  defp keep(name, random, done, highest) do
    {life_ms, random} = :rand.uniform_s(30, random)
    seen = :atomics.new(1, [])
    {pid, ref} = spawn_monitor(fn -> work(name, random, seen) end)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    after
      life_ms -> kill(pid)
    end

    Process.demonitor(ref, [:flush])
    highest = max(highest, :atomics.get(seen, 1))
    if :atomics.get(done, 1) == 1, do: highest, else: keep(name, random, done, highest)
  end

  defp work(name, random, seen) do
    {weight, random} = :rand.uniform_s(3, random)
    {choice, random} = :rand.uniform_s(20, random)

    with {:ok, permit} <- Bulkhead.acquire(name, weight: weight, wait: rem(choice, 4)) do
      out = Bulkhead.info(name).in_use
      if out > :atomics.get(seen, 1), do: :atomics.put(seen, 1, out)
      if choice == 1, do: Process.exit(self(), :kill)
      Bulkhead.release(permit)
    end

    work(name, random, seen)
  end
end
