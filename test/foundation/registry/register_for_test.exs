import Foundation.Conformance.Registry

conformance "RegisterFor",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}, partitions: 4]] do
  test "register_for/4 registers another process, which can unregister itself",
       %{registry: registry} = context do
    worker = start_worker()
    assert Registry.register_for(registry, worker, :key, :value) == {:ok, context.owner}

    assert Registry.lookup(registry, :key) == [{worker, :value}]
    assert Registry.keys(registry, worker) == [:key]
    assert Registry.values(registry, :key, worker) == [:value]
    assert Registry.keys(registry, self()) == []

    assert run(worker, fn -> Registry.unregister(registry, :key) end) == :ok
    assert Registry.lookup(registry, :key) == []
  end

  test "register_for/4 for the caller equals register/3", %{registry: registry} do
    assert {:ok, _} = Registry.register_for(registry, self(), :key, 1)
    assert Registry.lookup(registry, :key) == [{self(), 1}]
    assert Registry.unregister(registry, :key) == :ok
    assert Registry.lookup(registry, :key) == []
  end

  test "register_for/4 for a dead process returns an error", %{registry: registry} do
    assert Registry.register_for(registry, dead_pid(), :key, 1) == {:error, :not_alive}
    assert Registry.lookup(registry, :key) == []
    assert Registry.count(registry) == 0

    # The same if another process has the key.
    {:ok, _} = Registry.register(registry, :taken, 1)
    assert Registry.register_for(registry, dead_pid(), :taken, 2) == {:error, :not_alive}
    assert Registry.lookup(registry, :taken) == [{self(), 1}]
  end

  test "register_for/4 entries are removed when their process dies", %{registry: registry} do
    worker = start_worker()
    for key <- 1..100, do: {:ok, _} = Registry.register_for(registry, worker, key, key)
    kill(worker)
    for key <- 1..100, do: assert(Registry.lookup(registry, key) == [])
    eventually(fn -> Registry.count(registry) == 0 end)
  end

  test "register_for/4 entries stay when the process that registered them dies", %{
    registry: registry
  } do
    [registrar, worker] = start_workers(2)
    {:ok, _} = run(registrar, fn -> Registry.register_for(registry, worker, :key, 1) end)
    kill(registrar)
    assert Registry.lookup(registry, :key) == [{worker, 1}]
  end

  test "unregister_for/3 removes only that process's entries", %{registry: registry} do
    [one, other] = start_workers(2)
    {:ok, _} = Registry.register_for(registry, one, :key, 1)
    {:ok, _} = Registry.register_for(registry, one, :kept, 2)

    assert Registry.unregister_for(registry, other, :key) == :ok
    assert Registry.lookup(registry, :key) == [{one, 1}]
    assert Registry.unregister_for(registry, one, :key) == :ok
    assert Registry.lookup(registry, :key) == []
    assert Registry.lookup(registry, :kept) == [{one, 2}]
    assert Registry.unregister_for(registry, one, :absent) == :ok
    assert Registry.unregister_for(registry, dead_pid(), :kept) == :ok
  end

  test "register_for/4 tells listeners the registrant's pid", %{options: options} do
    listener = unique_name("listener")
    Process.register(self(), listener)

    registry =
      start_registry(Keyword.merge(options, name: unique_name("l"), listeners: [listener]))

    worker = start_worker()

    {:ok, _} = Registry.register_for(registry, worker, :key, :value)
    assert_received {:register, ^registry, :key, ^worker, :value}
    :ok = Registry.unregister_for(registry, worker, :key)
    assert_received {:unregister, ^registry, :key, ^worker}
    {:error, :not_alive} = Registry.register_for(registry, dead_pid(), :key, :value)
    refute_received {:register, _, _, _, _}
  end

  test "register_for/4 raises for arguments of other types", %{registry: registry} do
    for {name, arguments} <- [
          {:register_for, [registry, :name, :key, 1]},
          {:register_for, ["name", self(), :key, 1]},
          {:unregister_for, [registry, :name, :key]},
          {:unregister_for, ["name", self(), :key]}
        ],
        do: assert_raise(FunctionClauseError, fn -> apply(Registry, name, arguments) end)

    unknown = unique_name("unknown")
    message = "unknown registry: #{inspect(unknown)}"
    assert_raise ArgumentError, message, fn -> Registry.register_for(unknown, self(), :key, 1) end
    assert_raise ArgumentError, message, fn -> Registry.unregister_for(unknown, self(), :key) end
  end

  test "register_for/4 leaves no entry when it races with the process's death", %{
    registry: registry
  } do
    for round <- 1..200 do
      worker = start_worker()
      registrar = Task.async(fn -> Registry.register_for(registry, worker, {:race, round}, 1) end)
      Process.exit(worker, :kill)

      assert Task.await(registrar, 30_000) in [
               {:ok, Process.whereis(registry)},
               {:error, :not_alive}
             ]
    end

    eventually(fn -> Registry.count(registry) == 0 end)
    assert %{size: 0, processes: 0} = Registry.info(registry)
  end
end

conformance "RegisterForUnique", subjects: :ours do
  test "register_for/4 of a taken key returns the key's owner", %{registry: registry} do
    [one, other] = start_workers(2)
    {:ok, _} = Registry.register_for(registry, one, :key, 1)
    expected = {:error, {:already_registered, one}}
    assert Registry.register_for(registry, other, :key, 2) == expected
    assert Registry.register_for(registry, one, :key, 2) == expected
    assert Registry.register(registry, :key, 2) == expected
  end

  test "register_for/4 takes a key whose process is dead", %{registry: registry} do
    [one, other] = start_workers(2)
    {:ok, _} = Registry.register_for(registry, one, :key, 1)
    kill(one)
    assert {:ok, _} = Registry.register_for(registry, other, :key, 2)
    assert Registry.lookup(registry, :key) == [{other, 2}]
  end
end

conformance "UpdateDuringRemoval", subjects: :ours, variants: [[keys: :unique]] do
  # The callback forces the interleaving: the entry is removed between the read and the write.
  for {who, key} <- [another: :key, another: %{a: 1}, itself: :key, itself: %{a: 1}] do
    test "update_value/3 leaves a key to its next holder: #{inspect(key)}, removed by #{who}",
         %{registry: registry} do
      key = unquote(Macro.escape(key))
      me = self()
      {other, next} = {start_worker(), start_worker()}
      {:ok, _} = Registry.register(registry, key, 1)

      remove =
        case unquote(who) do
          :another -> fn -> run(other, fn -> Registry.unregister_for(registry, me, key) end) end
          :itself -> fn -> Registry.unregister(registry, key) end
        end

      updated =
        Registry.update_value(registry, key, fn 1 ->
          :ok = remove.()
          {:ok, _} = run(next, fn -> Registry.register(registry, key, :theirs) end)
          2
        end)

      assert updated == :error
      assert Registry.lookup(registry, key) == [{next, :theirs}]
    end
  end

  test "update_value/3 keeps its write when other keys are removed meanwhile",
       %{registry: registry} do
    {:ok, _} = Registry.register(registry, :key, 1)
    {:ok, _} = Registry.register(registry, :other, 1)

    update = fn 1 ->
      :ok = Registry.unregister(registry, :other)
      2
    end

    assert Registry.update_value(registry, :key, update) == {2, 1}
    assert Registry.lookup(registry, :key) == [{self(), 2}]
  end
end
