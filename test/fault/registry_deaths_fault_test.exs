import Foundation.Conformance.Registry

conformance "Deaths",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}, partitions: 4]] do
  test "thousands of simultaneous deaths leave no entry, and no read returns a dead process",
       %{
         registry: registry
       } do
    staying = start_worker()
    run(staying, fn -> for key <- 1..100, do: Registry.register(registry, {:stays, key}, key) end)
    dying = start_workers(5_000)

    for {pid, index} <- Enum.with_index(dying),
        do: {:ok, _} = Registry.register_for(registry, pid, {:dies, rem(index, 5_000)}, index)

    assert Registry.count(registry) == 5_100
    refs = for pid <- dying, do: {pid, Process.monitor(pid)}
    for pid <- dying, do: Process.exit(pid, :kill)

    for {{pid, ref}, index} <- Enum.with_index(refs) do
      assert_receive {:DOWN, ^ref, :process, ^pid, _reason}
      assert Registry.lookup(registry, {:dies, index}) == []
      assert Registry.keys(registry, pid) == []
    end

    assert Registry.match(registry, {:dies, 0}, :_) == []

    for {key, pid, _value} <- Registry.stream(registry),
        do: assert({key, pid} == {{:stays, elem(key, 1)}, staying})

    eventually(fn -> Registry.count(registry) == 100 end)
    assert %{size: 100, keys: 100, processes: 1} = Registry.info(registry)
    assert length(Registry.keys(registry, staying)) == 100
  end

  test "no function returns entries of a process once Process.alive?/1 returns false", %{
    registry: registry,
    options: options
  } do
    for round <- 1..300 do
      worker = start_worker()
      {:ok, _} = Registry.register_for(registry, worker, :key, {:of, round})
      Process.exit(worker, :kill)
      await_dead(worker)

      # Each round starts with another function, so each is the first call after a death.
      questions = [
        fn -> Registry.lookup(registry, :key) end,
        fn -> Registry.lookup_many(registry, [:key]) |> hd() end,
        fn -> Registry.values(registry, :key, worker) end,
        fn -> Registry.keys(registry, worker) end,
        fn -> Registry.match(registry, :key, {:of, :_}) end,
        fn -> List.duplicate(:dead, Registry.count_match(registry, :key, :_)) end,
        fn -> Registry.select(registry, [{{:_, worker, :_}, [], [:dead]}]) end,
        fn -> Registry.select(registry, [{{:key, :_, :_}, [], [:dead]}]) end,
        fn ->
          List.duplicate(:dead, Registry.count_select(registry, [{{:_, :_, :_}, [], [true]}]))
        end,
        fn -> List.duplicate(:dead, Registry.broadcast(registry, :key, :message)) end,
        fn -> for {:key, pid, _} <- Registry.stream(registry), do: pid end,
        fn ->
          me = self()
          Registry.dispatch(registry, :key, &send(me, {:dispatched, &1}))
          receive do: ({:dispatched, entries} -> entries), after: (0 -> [])
        end,
        fn ->
          if options[:keys] == :unique,
            do: List.wrap(pid_or_nil(Registry.whereis_name({registry, :key}))),
            else: []
        end
      ]

      {question, index} = questions |> Enum.with_index() |> Enum.at(rem(round, length(questions)))
      assert {index, question.()} == {index, []}
    end

    eventually(fn -> Registry.count(registry) == 0 end)
  end

  test "deaths that race with registrations leave no entry behind", %{registry: registry} do
    spawners =
      for spawner <- 1..4 do
        Task.async(fn ->
          for round <- 1..500 do
            # Registers until it is killed, or ends between two registrations.
            pid =
              spawn(fn ->
                for key <- 1..20, do: Registry.register(registry, {spawner, round, key}, key)
              end)

            if rem(round, 2) == 0, do: Process.exit(pid, :kill)
            pid
          end
        end)
      end

    registrants = spawners |> Task.await_many(60_000) |> Enum.concat()
    # Until the last registrant has ended, the registry can be empty and fill again.
    eventually(fn -> not Enum.any?(registrants, &Process.alive?/1) end)
    eventually(fn -> Registry.count(registry) == 0 end)
    assert %{size: 0, keys: 0, processes: 0} = Registry.info(registry)
    assert Registry.select(registry, [{{:_, :_, :_}, [], [true]}]) == []
  end

  test "exactly one waiting process gets the key of a dead owner", %{
    registry: registry,
    options: options
  } do
    if options[:keys] == :unique do
      for round <- 1..100 do
        holder = start_worker()
        {:ok, _} = Registry.register_for(registry, holder, :prize, :old)
        workers = start_workers(4)

        attempts =
          for worker <- workers do
            Task.async(fn ->
              await_dead(holder)
              run(worker, fn -> Registry.register(registry, :prize, {round, worker}) end)
            end)
          end

        Process.exit(holder, :kill)
        results = Task.await_many(attempts, 30_000)
        assert [{winner, {^round, winner}}] = Registry.lookup(registry, :prize)
        assert Enum.count(results, &match?({:ok, _}, &1)) == 1
        assert Enum.count(results, &(&1 == {:error, {:already_registered, winner}})) == 3
        kill(winner)
      end
    else
      # Nobody waits for a duplicate key.
      assert {:ok, _} = Registry.register(registry, :prize, 1)
      assert {:ok, _} = Registry.register(registry, :prize, 2)
    end
  end

  test "the death of one process with 20,000 keys removes them all", %{registry: registry} do
    worker = start_worker()

    run(worker, fn ->
      for key <- 1..20_000, do: {:ok, _} = Registry.register(registry, key, key)
    end)

    {:ok, _} = Registry.register(registry, :mine, 1)
    kill(worker)

    for key <- [1, 10_000, 20_000], do: assert(Registry.lookup(registry, key) == [])
    # The keys are free while the clean-up is still running.
    for key <- 1..20_000//100, do: assert({:ok, _} = Registry.register(registry, key, :new))
    eventually(fn -> Registry.count(registry) == 201 end)
    for key <- 1..20_000//100, do: assert(Registry.lookup(registry, key) == [{self(), :new}])
  end

  # Polls without a monitor, whose message arrives after the clean-up of the process has begun.
  defp await_dead(pid) do
    if Process.alive?(pid) do
      :erlang.yield()
      await_dead(pid)
    end
  end

  defp pid_or_nil(:undefined), do: nil
  defp pid_or_nil(pid), do: pid
end
