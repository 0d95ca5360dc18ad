import Foundation.Conformance.Registry

# Not async: the processes that die here belong to the application.
conformance "AreaProcessesKilledUnderLoad",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate]],
  async: false do
  alias Foundation.{Load, RegistrySupervisor}
  alias Foundation.Registry.TableHolder

  @workers 6
  @kills 30

  @tag timeout: 120_000
  test "the registry keeps its guarantees while every process of the area is killed repeatedly",
       %{
         registry: registry
       } do
    steps = for worker <- 1..@workers, do: &work(registry, worker, &1 || 0)
    load = Load.start(steps)

    for victims <- phases(Registry.info(registry).engine, registry),
        do: kill_at_random(victims, load)

    for rounds <- Load.stop(load), do: assert(rounds > 0)

    victims = [registry | RegistrySupervisor.processes()]
    for name <- victims, do: eventually(fn -> Process.whereis(name) end)
    eventually(fn -> Registry.count(registry) == 0 end)
    assert %{size: 0, keys: 0, processes: 0} = Registry.info(registry)

    # The registry still works.
    worker = start_worker()
    {:ok, _} = Registry.register_for(registry, worker, :after, 1)
    assert Registry.lookup(registry, :after) == [{worker, 1}]
    kill(worker)
    assert Registry.lookup(registry, :after) == []
    eventually(fn -> Registry.count(registry) == 0 end)
    assert Registry.lock(registry, :after, fn -> :free end) == :free
  end

  # An ETS table does not survive the death of both its owner and their holder at the same time:
  # that is two faults. A native table survives both.
  defp phases(:native, registry), do: [[registry | RegistrySupervisor.processes()]]

  defp phases(:ets, registry) do
    others = RegistrySupervisor.processes() -- [TableHolder]
    [[registry | others], [TableHolder | others]]
  end

  defp kill_at_random(victims, load) do
    for _kill <- 1..@kills do
      Load.progress(load, 10)
      victim = Enum.random(victims)

      if pid = Process.whereis(victim) do
        kill(pid)
        # Now and then the successor is killed during its start.
        if :rand.uniform(3) > 1,
          do: eventually(fn -> Process.whereis(victim) not in [nil, pid] end)
      end
    end

    for name <- victims, do: eventually(fn -> Process.whereis(name) end)
    # The last successor may still be adopting.
    Load.progress(load, 10)
  end

  defp work(registry, worker, round) do
    short_life(registry, {worker, round})
    own_entries(registry, {worker, round})
    if rem(round, 10) == 0, do: locked(registry)
    round + 1
  end

  defp short_life(registry, key) do
    pid = start_worker()
    {:ok, _} = Registry.register_for(registry, pid, key, :short)
    assert Registry.lookup(registry, key) == [{pid, :short}]
    kill(pid)
    assert Registry.lookup(registry, key) == []
    {:ok, _} = Registry.register(registry, key, :mine)
    assert Registry.lookup(registry, key) == [{self(), :mine}]
    :ok = Registry.unregister(registry, key)
  end

  defp own_entries(registry, key) do
    keys = for index <- 1..20, do: {key, index}
    for own <- keys, do: {:ok, _} = Registry.register(registry, own, own)
    me = self()
    assert Registry.lookup_many(registry, keys) == for(own <- keys, do: [{me, own}])
    assert Enum.sort(Registry.keys(registry, self())) == Enum.sort(keys)
    for own <- keys, do: :ok = Registry.unregister(registry, own)
    assert Registry.keys(registry, self()) == []
  end

  # Two processes inside the lock would both see the key of the other.
  defp locked(registry) do
    :inside =
      Registry.lock(registry, :shared, fn ->
        {:ok, _} = Registry.register(registry, :in_the_lock, self())
        assert Registry.lookup(registry, :in_the_lock) == [{self(), self()}]
        :ok = Registry.unregister(registry, :in_the_lock)
        :inside
      end)
  end
end
