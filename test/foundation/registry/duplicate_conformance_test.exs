import Foundation.Conformance.Registry

conformance "DuplicateKeys",
  variants: [
    [keys: :duplicate],
    [keys: :duplicate, partitions: 4],
    [keys: {:duplicate, :pid}, needs: :key_partition],
    [keys: {:duplicate, :key}, partitions: 4, needs: :key_partition]
  ] do
  describe "register/3" do
    test "accepts the same key again, from one process and from many", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :theirs) end)
      {:ok, _} = Registry.register(registry, "key", :mine)
      {:ok, _} = Registry.register(registry, "key", :mine)

      assert Enum.sort(Registry.lookup(registry, "key")) ==
               Enum.sort([{self(), :mine}, {self(), :mine}, {worker, :theirs}])

      assert Registry.keys(registry, self()) == ["key", "key"]
      assert Registry.keys(registry, worker) == ["key"]
      assert Registry.count(registry) == 3
    end

    test "returns the owner, which is alive and not the caller", %{registry: registry} do
      assert {:ok, owner} = Registry.register(registry, "key", :value)
      assert is_pid(owner) and Process.alive?(owner) and owner != self()
    end
  end

  describe "lookup/2" do
    test "of an absent key is empty", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)
      assert Registry.lookup(registry, "absent") == []
    end

    test "gives one process's entries in the order of their registration", %{registry: registry} do
      # The standard library's {:duplicate, :key} sorts by a counter, which is not always in that
      # order.
      values = Enum.shuffle(1..50)
      for value <- values, do: {:ok, _} = Registry.register(registry, "key", value)
      found = for {_pid, value} <- Registry.lookup(registry, "key"), do: value

      if standard_by_key?(),
        do: assert(Enum.sort(found) == Enum.sort(values)),
        else: assert(found == values)
    end

    test "finds the entries of many processes", %{registry: registry} do
      workers = start_workers(64)

      for worker <- workers,
          do: {:ok, _} = run(worker, fn -> Registry.register(registry, "topic", worker) end)

      assert Enum.sort(Registry.lookup(registry, "topic")) ==
               Enum.sort(Enum.zip(workers, workers))

      assert Registry.count(registry) == 64
    end
  end

  test "values/3 gives the values of one process under one key, in order", %{registry: registry} do
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :theirs) end)
    {:ok, _} = Registry.register(registry, "key", :b)
    {:ok, _} = Registry.register(registry, "other", :c)
    {:ok, _} = Registry.register(registry, "key", :a)

    assert Registry.values(registry, "key", worker) == [:theirs]
    assert Enum.sort(Registry.values(registry, "key", self())) == [:a, :b]
    assert Registry.values(registry, "absent", self()) == []
    assert Registry.values(registry, "key", dead_pid()) == []
    assert Registry.values(registry, "key", :not_a_pid) == []
  end

  describe "unregister/2" do
    test "removes all of the caller's entries under the key", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :theirs) end)
      for value <- 1..5, do: {:ok, _} = Registry.register(registry, "key", value)
      {:ok, _} = Registry.register(registry, "other", 6)

      assert Registry.unregister(registry, "key") == :ok
      assert Registry.lookup(registry, "key") == [{worker, :theirs}]
      assert Registry.keys(registry, self()) == ["other"]
      assert Registry.count(registry) == 2
    end

    test "of an absent key or of another process's is :ok", %{registry: registry} do
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, "key", :theirs) end)
      assert Registry.unregister(registry, "key") == :ok
      assert Registry.unregister(registry, "absent") == :ok
      assert Registry.lookup(registry, "key") == [{worker, :theirs}]
    end

    test "leaves room to register again", %{registry: registry} do
      for round <- 1..20 do
        {:ok, _} = Registry.register(registry, "key", round)
        assert Registry.lookup(registry, "key") == [{self(), round}]
        :ok = Registry.unregister(registry, "key")
        assert Registry.lookup(registry, "key") == []
      end
    end
  end

  describe "unregister_match/3,4" do
    setup %{registry: registry} do
      for value <- [{1, :a}, {2, :b}, {1, :c}, {3, :d}],
          do: {:ok, _} = Registry.register(registry, "key", value)

      :ok
    end

    test "removes what matches and keeps the order of the rest", %{registry: registry} do
      assert Registry.unregister_match(registry, "key", {1, :_}) == :ok
      assert Registry.keys(registry, self()) == ["key", "key"]
      assert Enum.sort(Registry.lookup(registry, "key")) == [{self(), {2, :b}}, {self(), {3, :d}}]
      assert Registry.count(registry) == 2
    end

    test "takes guards", %{registry: registry} do
      assert Registry.unregister_match(registry, "key", {:"$1", :_}, [{:>, :"$1", 1}]) == :ok

      assert Enum.sort(Registry.values(registry, "key", self())) == [{1, :a}, {1, :c}]
    end

    test "guards see the entry that those of match/4 see", %{registry: registry} do
      guards = [{:==, {:element, 1, :"$_"}, "key"}]
      matching = Registry.match(registry, "key", :_, guards)
      assert Registry.unregister_match(registry, "key", :_, guards) == :ok
      assert length(Registry.lookup(registry, "key")) == 4 - length(matching)
    end

    test "of a pattern that matches all entries leaves none", %{registry: registry} do
      assert Registry.unregister_match(registry, "key", :_) == :ok
      assert Registry.keys(registry, self()) == []
      assert Registry.lookup(registry, "key") == []
      assert Registry.count(registry) == 0
    end

    test "of a pattern that matches no entry leaves all", %{registry: registry} do
      assert Registry.unregister_match(registry, "key", {9, :_}) == :ok
      assert Registry.unregister_match(registry, "absent", :_) == :ok
      assert length(Registry.lookup(registry, "key")) == 4
    end

    test "leaves the process's other keys", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "other", {1, :e})
      assert Registry.unregister_match(registry, "key", {1, :_}) == :ok
      assert Enum.sort(Registry.keys(registry, self())) == ["key", "key", "other"]
      assert Registry.values(registry, "other", self()) == [{1, :e}]
    end

    test "remaining entries are removed when the process dies", %{registry: registry} do
      worker = start_worker()

      run(worker, fn ->
        for value <- 1..4, do: {:ok, _} = Registry.register(registry, "theirs", value)
        Registry.unregister_match(registry, "theirs", :"$1", [{:<, :"$1", 3}])
      end)

      assert Registry.keys(registry, worker) == ["theirs", "theirs"]
      kill(worker)
      eventually(fn -> Registry.lookup(registry, "theirs") == [] end)
      eventually(fn -> Registry.count(registry) == 4 end)
    end
  end

  describe "dispatch/3,4" do
    test "checks its options only when it groups by pid, with entries or without", context do
      %{registry: registry} = context
      {:ok, _owner} = Registry.register(registry, "key", 1)
      by_pid? = @variant[:keys] == :duplicate and @variant[:partitions] == 4

      for options <- [:parallel, %{parallel: true}, nil], key <- ["key", "absent"] do
        dispatch = fn -> Registry.dispatch(registry, key, fn _entries -> :ok end, options) end

        if by_pid?,
          do: assert_raise(FunctionClauseError, dispatch),
          else: assert(dispatch.() == :ok)
      end
    end

    test "hands over every entry once, in non-empty lists", %{registry: registry} do
      workers = start_workers(40)

      for worker <- workers,
          do: {:ok, _} = run(worker, fn -> Registry.register(registry, "topic", worker) end)

      for options <- [[], [parallel: false], [parallel: true]] do
        me = self()
        assert Registry.dispatch(registry, "topic", &send(me, {:entries, &1}), options) == :ok
        lists = received_entries()
        assert Enum.all?(lists, &(&1 != []))
        assert Enum.sort(Enum.concat(lists)) == Enum.sort(Enum.zip(workers, workers))
      end
    end

    test "runs in the caller unless it is parallel", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "topic", nil)
      me = self()
      Registry.dispatch(registry, "topic", fn _entries -> send(me, {:ran_in, self()}) end)
      assert_received {:ran_in, ^me}
    end

    test "does not call for an absent key", %{registry: registry} do
      assert Registry.dispatch(registry, "absent", fn _ -> flunk("called") end) == :ok

      assert Registry.dispatch(registry, "absent", fn _ -> flunk("called") end, parallel: true) ==
               :ok
    end

    test "takes module, function and arguments", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)
      me = self()

      for options <- [[], [parallel: true]] do
        mfa = {__MODULE__, :forward, [me, :extra]}
        assert Registry.dispatch(registry, "key", mfa, options) == :ok
        assert_received {:forwarded, [{^me, :value}], :extra}
      end
    end

    test "passes a raise on", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :value)

      assert_raise RuntimeError, "boom", fn ->
        Registry.dispatch(registry, "key", fn _entries -> raise "boom" end)
      end
    end

    test "as a publish and subscribe reaches every subscription", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "topic", 1)
      {:ok, _} = Registry.register(registry, "topic", 2)

      Registry.dispatch(registry, "topic", fn entries ->
        for {pid, value} <- entries, do: send(pid, {:published, value})
      end)

      assert_received {:published, 1}
      assert_received {:published, 2}
    end
  end

  test "entries of a dead process are removed and those of others stay", %{registry: registry} do
    [dying, staying] = start_workers(2)

    for worker <- [dying, staying], key <- ["a", "a", "b"] do
      {:ok, _} = run(worker, fn -> Registry.register(registry, key, worker) end)
    end

    kill(dying)
    eventually(fn -> Registry.count(registry) == 3 end)
    assert Registry.lookup(registry, "a") == [{staying, staying}, {staying, staying}]
    assert Registry.lookup(registry, "b") == [{staying, staying}]
    assert Registry.keys(registry, dying) == []
    assert Enum.sort(Registry.keys(registry, staying)) == ["a", "a", "b"]
  end

  describe "functions of unique registries only" do
    needs(:current_messages)

    test "update_value/3 raises", %{registry: registry, options: options} do
      kind = if options[:keys] == :duplicate, do: {:duplicate, :pid}, else: options[:keys]

      message =
        "Registry.update_value/3 is not supported for #{inspect(kind)} registries"
        |> String.replace("Registry", inspect(Registry))

      assert_raise ArgumentError, message, fn ->
        Registry.update_value(registry, "key", & &1)
      end
    end

    test ":via raises", %{registry: registry} do
      name = {:via, Registry, {registry, "key"}}

      assert_raise ArgumentError, ":via is not supported for duplicate registries", fn ->
        Agent.start_link(fn -> nil end, name: name)
      end

      assert_raise ArgumentError, ":via is not supported for duplicate registries", fn ->
        Registry.whereis_name({registry, "key"})
      end
    end
  end

  def forward(entries, to, extra), do: send(to, {:forwarded, entries, extra})

  defp received_entries do
    receive do
      {:entries, entries} -> [entries | received_entries()]
    after
      0 -> []
    end
  end

  defp standard_by_key?,
    do: standard?(@subject) and @variant[:keys] == {:duplicate, :key}
end

conformance "DuplicateOrder",
  subjects: :all,
  variants: [[keys: :duplicate], [keys: {:duplicate, :pid}, needs: :key_partition]] do
  test "entries under a key come in the order of registration, over processes", %{
    registry: registry
  } do
    workers = start_workers(5)

    expected =
      for round <- 1..10, worker <- Enum.shuffle(workers) do
        {:ok, _} = run(worker, fn -> Registry.register(registry, "key", round) end)
        {worker, round}
      end

    assert Registry.lookup(registry, "key") == expected
    assert Registry.match(registry, "key", :_) == expected

    me = self()
    Registry.dispatch(registry, "key", &send(me, {:entries, &1}))
    assert_received {:entries, ^expected}
  end

  test "entries under a key keep their order when entries between them are removed", %{
    registry: registry
  } do
    for value <- 1..30, do: {:ok, _} = Registry.register(registry, "key", value)
    :ok = Registry.unregister_match(registry, "key", :"$1", [{:==, {:rem, :"$1", 3}, 0}])
    left = for value <- 1..30, rem(value, 3) != 0, do: {self(), value}
    assert Registry.lookup(registry, "key") == left

    {:ok, _} = Registry.register(registry, "key", 3)
    assert Registry.lookup(registry, "key") == left ++ [{self(), 3}]
  end
end
