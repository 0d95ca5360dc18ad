import Foundation.Conformance.Registry

conformance "UniqueKeys", variants: [[keys: :unique], [keys: :unique, partitions: 4]] do
  describe "register/3" do
    test "returns the owner, which is alive and not the caller", %{registry: registry} do
      assert {:ok, owner} = Registry.register(registry, "key", :value)
      assert is_pid(owner) and Process.alive?(owner) and owner != self()
    end

    test "of a taken key returns already_registered with the owner and keeps the entry", %{
      registry: registry
    } do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :first) end)

      assert Registry.register(registry, "key", :second) ==
               {:error, {:already_registered, worker}}

      assert Registry.lookup(registry, "key") == [{worker, :first}]
      assert Registry.keys(registry, self()) == []
    end

    test "of the caller's own key is an error too", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :first)

      assert Registry.register(registry, "key", :second) ==
               {:error, {:already_registered, self()}}

      assert Registry.lookup(registry, "key") == [{self(), :first}]
      assert Registry.keys(registry, self()) == ["key"]
      assert Registry.count(registry) == 1
    end

    test "takes many keys of one process", %{registry: registry} do
      for index <- 1..200, do: {:ok, _} = Registry.register(registry, {:key, index}, index)

      assert Registry.count(registry) == 200
      assert Enum.sort(Registry.keys(registry, self())) == for(index <- 1..200, do: {:key, index})

      for index <- 1..200,
          do: assert(Registry.lookup(registry, {:key, index}) == [{self(), index}])
    end

    test "lets exactly one of many racing processes succeed", %{registry: registry} do
      workers = start_workers(20)

      results =
        workers
        |> Enum.map(fn worker ->
          Task.async(fn -> run(worker, fn -> Registry.register(registry, :prize, worker) end) end)
        end)
        |> Task.await_many(30_000)

      assert [{winner, winner}] = Registry.lookup(registry, :prize)
      assert Enum.count(results, &match?({:ok, _}, &1)) == 1
      assert Enum.count(results, &(&1 == {:error, {:already_registered, winner}})) == 19
    end

    test "replaces a dead process at once", %{registry: registry} do
      for index <- 1..50 do
        worker = start_worker()
        {:ok, _} = run(worker, fn -> Registry.register(registry, index, :old) end)
        kill(worker)
        assert {:ok, _} = Registry.register(registry, index, :new)
        assert Registry.lookup(registry, index) == [{self(), :new}]
      end

      # The clean-up after the dead process may come later. It must not remove the new entries.
      eventually(fn -> Registry.count(registry) == 50 end)
      for index <- 1..50, do: assert(Registry.lookup(registry, index) == [{self(), :new}])
    end
  end

  describe "lookup/2" do
    test "of an absent key is empty", %{registry: registry} do
      assert Registry.lookup(registry, :absent) == []
    end

    test "returns the same to every process", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", %{deep: [1, {2}]})
      me = self()

      assert run(start_worker(), fn -> Registry.lookup(registry, "key") end) ==
               [{me, %{deep: [1, {2}]}}]
    end
  end

  describe "keys/2 and values/3" do
    test "return the entries of the given process only", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "theirs", 1) end)
      {:ok, _} = Registry.register(registry, "mine", 2)

      assert Registry.keys(registry, worker) == ["theirs"]
      assert Registry.keys(registry, self()) == ["mine"]
      assert Registry.values(registry, "theirs", worker) == [1]
      assert Registry.values(registry, "theirs", self()) == []
      assert Registry.values(registry, "absent", self()) == []
    end

    test "are empty for a process without entries", %{registry: registry} do
      assert Registry.keys(registry, start_worker()) == []
      assert Registry.keys(registry, dead_pid()) == []
      assert Registry.values(registry, "key", dead_pid()) == []
    end

    test "values/3 accepts any term as a pid and returns an empty list", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", 1)
      assert Registry.values(registry, "key", :not_a_pid) == []
    end
  end

  describe "unregister/2" do
    test "removes the caller's entry and frees the key", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)
      {:ok, _} = Registry.register(registry, "other", :value)

      assert Registry.unregister(registry, "key") == :ok
      assert Registry.lookup(registry, "key") == []
      assert Registry.keys(registry, self()) == ["other"]

      assert {:ok, _} = run(start_worker(), fn -> Registry.register(registry, "key", :value) end)
    end

    test "of an absent key is :ok", %{registry: registry} do
      assert Registry.unregister(registry, "absent") == :ok
      assert Registry.count(registry) == 0
    end

    test "of another process's key is :ok and leaves it", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :value) end)

      assert Registry.unregister(registry, "key") == :ok
      assert Registry.lookup(registry, "key") == [{worker, :value}]
      assert Registry.keys(registry, worker) == ["key"]
    end
  end

  describe "unregister_match/3,4" do
    test "removes the entry if its value matches", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", {1, :atom})

      assert Registry.unregister_match(registry, "key", {2, :_}) == :ok
      assert Registry.keys(registry, self()) == ["key"]
      assert Registry.unregister_match(registry, "key", {:"$1", :_}, [{:>, :"$1", 1}]) == :ok
      assert Registry.keys(registry, self()) == ["key"]

      assert Registry.unregister_match(registry, "key", {:"$1", :_}, [{:<, :"$1", 2}]) == :ok
      assert Registry.keys(registry, self()) == []
      assert Registry.lookup(registry, "key") == []
    end

    test "leaves another process's entry", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :value) end)

      assert Registry.unregister_match(registry, "key", :_) == :ok
      assert Registry.lookup(registry, "key") == [{worker, :value}]
    end

    test "of an absent key is :ok", %{registry: registry} do
      assert Registry.unregister_match(registry, "absent", :_) == :ok
    end
  end

  describe "update_value/3" do
    test "replaces the value and returns the new and the old", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", 1)
      assert Registry.update_value(registry, "key", &(&1 + 1)) == {2, 1}
      assert Registry.lookup(registry, "key") == [{self(), 2}]
      assert Registry.count(registry) == 1
      assert Registry.keys(registry, self()) == ["key"]
    end

    test "of another process's key or an absent one is :error", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", 1) end)
      never = fn _value -> flunk("the callback ran") end

      assert Registry.update_value(registry, "key", never) == :error
      assert Registry.update_value(registry, "absent", never) == :error
      assert Registry.lookup(registry, "key") == [{worker, 1}]
    end

    test "changes nothing when the callback raises", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", 1)

      assert_raise RuntimeError, "no", fn ->
        Registry.update_value(registry, "key", fn _value -> raise "no" end)
      end

      assert Registry.lookup(registry, "key") == [{self(), 1}]
    end

    test "takes a value of any size", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", nil)

      for value <- [7, "text", :binary.copy("x", 100_000), Map.new(1..100, &{&1, &1}), nil] do
        assert {^value, _old} = Registry.update_value(registry, "key", fn _old -> value end)
        assert Registry.lookup(registry, "key") == [{self(), value}]
      end
    end
  end

  describe "dispatch/3,4" do
    test "calls with the one entry, in the caller", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)
      me = self()

      assert Registry.dispatch(registry, "key", &send(me, {:entries, self(), &1})) == :ok
      assert_received {:entries, ^me, [{^me, :value}]}
      refute_received {:entries, _, _}

      assert Registry.dispatch(registry, "key", &send(me, {:entries, &1}), parallel: true) == :ok
      assert_received {:entries, [{^me, :value}]}
    end

    test "does not call for an absent key", %{registry: registry} do
      assert Registry.dispatch(registry, "absent", fn _ -> flunk("called") end) == :ok
      assert Registry.dispatch(registry, "absent", {__MODULE__, :absent, []}) == :ok
    end

    test "takes module, function and arguments", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)
      me = self()
      assert Registry.dispatch(registry, "key", {__MODULE__, :forward, [me, :extra]}) == :ok
      assert_received {:forwarded, [{^me, :value}], :extra}
    end

    test "passes a raise on", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)

      assert_raise RuntimeError, "boom", fn ->
        Registry.dispatch(registry, "key", fn _entries -> raise "boom" end)
      end
    end
  end

  test "count/1 is the number of entries", %{registry: registry} do
    assert Registry.count(registry) == 0
    {:ok, _} = Registry.register(registry, 1, nil)
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, 2, nil) end)
    assert Registry.count(registry) == 2
    kill(worker)
    eventually(fn -> Registry.count(registry) == 1 end)
    Registry.unregister(registry, 1)
    assert Registry.count(registry) == 0
  end

  test "the entries of a dead process are removed, for any exit reason", %{registry: registry} do
    for reason <- [:kill, :shutdown, :boom] do
      worker = start_worker()

      run(worker, fn ->
        for index <- 1..20, do: {:ok, _} = Registry.register(registry, index, :value)
      end)

      assert Registry.count(registry) == 20
      kill(worker, reason)
      eventually(fn -> Registry.count(registry) == 0 end)
      for index <- 1..20, do: assert(Registry.lookup(registry, index) == [])
      assert Registry.keys(registry, worker) == []
    end
  end

  test "registries share no entries", %{registry: registry} do
    other = start_registry(keys: :unique)
    {:ok, _} = Registry.register(registry, "key", 1)
    {:ok, _} = Registry.register(other, "key", 2)

    assert Registry.lookup(registry, "key") == [{self(), 1}]
    assert Registry.lookup(other, "key") == [{self(), 2}]
    :ok = Registry.unregister(other, "key")
    assert Registry.lookup(registry, "key") == [{self(), 1}]
  end

  def forward(entries, to, extra), do: send(to, {:forwarded, entries, extra})
end
