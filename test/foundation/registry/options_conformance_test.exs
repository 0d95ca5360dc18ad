import Foundation.Conformance.Registry

conformance "Options" do
  describe "start_link/1" do
    needs(:current_messages)

    test "requires :keys", _context do
      expected =
        "expected :keys to be given and be one of :unique, :duplicate, {:duplicate, :key}, " <>
          "or {:duplicate, :pid}, got: "

      for options <- [[], [name: :name], [keys: nil, name: :name]] do
        assert_raise ArgumentError, expected <> "nil", fn -> Registry.start_link(options) end
      end

      for keys <- [:uniqe, "unique", {:duplicate, :value}, {:unique, :key}, {:duplicate}] do
        assert_raise ArgumentError, expected <> inspect(keys), fn ->
          Registry.start_link(keys: keys, name: :name)
        end
      end
    end

    test "requires :name to be an atom", _context do
      assert_raise ArgumentError, "expected :name option to be present", fn ->
        Registry.start_link(keys: :unique)
      end

      for name <- ["name", 1, {:local, :name}, {:global, :name}] do
        assert_raise ArgumentError, "expected :name to be an atom, got: #{inspect(name)}", fn ->
          Registry.start_link(keys: :unique, name: name)
        end
      end
    end

    test "checks :partitions", _context do
      for partitions <- [0, -1, 1.0, "1", nil, :all] do
        message = "expected :partitions to be a positive integer, got: #{inspect(partitions)}"
        assert_raise ArgumentError, message, fn -> start(partitions: partitions) end
      end
    end

    test "checks :listeners", _context do
      for listeners <- [["name"], :name, nil, [:name, 1], [self()], {:name}] do
        message =
          "expected :listeners to be a list of named processes, got: #{inspect(listeners)}"

        assert_raise ArgumentError, message, fn -> start(listeners: listeners) end
      end
    end

    test "checks :meta", _context do
      for meta <- [[1], %{a: 1}, :meta, [{"a", 1}], nil] do
        message = "expected :meta to be a keyword list, got: #{inspect(meta)}"
        assert_raise ArgumentError, message, fn -> start(meta: meta) end
      end
    end

    test "checks :compressed", _context do
      for compressed <- [1, nil, "true", :yes] do
        message = "expected :compressed to be a boolean, got: #{inspect(compressed)}"
        assert_raise ArgumentError, message, fn -> start(compressed: compressed) end
      end
    end

    test "checks in the order of its documentation", _context do
      assert_raise ArgumentError, ~r/^expected :name option/, fn ->
        Registry.start_link(keys: :unique, meta: 1, partitions: 0)
      end

      assert_raise ArgumentError, ~r/^expected :meta /, fn -> start(meta: 1, partitions: 0) end

      assert_raise ArgumentError, ~r/^expected :partitions /, fn ->
        start(partitions: 0, listeners: 1, compressed: 1)
      end

      assert_raise ArgumentError, ~r/^expected :listeners /, fn ->
        start(listeners: 1, compressed: 1)
      end
    end

    test "takes :compressed", _context do
      for keys <- [:unique, :duplicate] do
        registry = start_registry(keys: keys, compressed: true)
        {:ok, _} = Registry.register(registry, "key", :binary.copy("x", 1_000))
        assert Registry.lookup(registry, "key") == [{self(), :binary.copy("x", 1_000)}]
      end
    end

    test "ignores an option that it does not know", _context do
      assert is_atom(start_registry(keys: :unique, no_such_option: 1))
    end

    test "returns the process registered under the name", _context do
      name = unique_name("started")
      assert {:ok, pid} = Registry.start_link(keys: :unique, name: name)
      assert Process.whereis(name) == pid
    end

    test "links to the caller", _context do
      name = unique_name("started")
      {:ok, pid} = Registry.start_link(keys: :unique, name: name)
      assert pid in elem(Process.info(self(), :links), 1)
    end

    test "of a taken name returns already_started with the owner", %{
      registry: registry,
      owner: owner
    } do
      {:ok, _} = Registry.register(registry, "key", 1)

      for keys <- [:unique, :duplicate] do
        assert Registry.start_link([keys: keys, name: registry] ++ @subject.options) ==
                 {:error, {:already_started, owner}}
      end

      assert Registry.lookup(registry, "key") == [{self(), 1}]
    end

    test "of a taken name sends its caller no exit message",
         %{registry: registry, owner: owner} do
      caller = start_worker()
      :erlang.trace(caller, true, [:procs])

      assert run(caller, fn ->
               Registry.start_link([keys: :unique, name: registry] ++ @subject.options)
             end) == {:error, {:already_started, owner}}

      delivered = :erlang.trace_delivered(caller)
      assert_receive {:trace_delivered, ^caller, ^delivered}
      refute_received {:trace, ^caller, :spawn, _pid, _call}
    end

    test "of a name that another process has returns that process", _context do
      name = unique_name("taken")
      Process.register(self(), name)

      assert Registry.start_link([keys: :unique, name: name] ++ @subject.options) ==
               {:error, {:already_started, self()}}

      assert_raise ArgumentError, "unknown registry: #{inspect(name)}", fn ->
        Registry.lookup(name, "key")
      end
    end

    test "requires a keyword list", _context do
      assert_raise FunctionClauseError, fn -> apply(Registry, :start_link, [:unique]) end
    end
  end

  describe "the deprecated start_link/2,3" do
    # Uses apply/3, because the compiler would warn about the deprecation.
    test "start a registry", _context do
      {:ok, pid} = apply(Registry, :start_link, [:unique, name = unique_name("deprecated")])
      assert Process.whereis(name) == pid
      {:ok, _} = Registry.register(name, "key", 1)
      assert {:error, _} = Registry.register(name, "key", 1)

      {:ok, _} = apply(Registry, :start_link, [:duplicate, name = unique_name("deprecated"), []])
      {:ok, _} = Registry.register(name, "key", 1)
      assert {:ok, _} = Registry.register(name, "key", 1)

      options = [meta: [a: 1], partitions: 2]

      {:ok, _} =
        apply(Registry, :start_link, [:unique, name = unique_name("deprecated"), options])

      assert Registry.meta(name, :a) == {:ok, 1}
    end

    test "refuse other keys and names", _context do
      message = "no function clause matching in #{inspect(Registry)}.start_link/3"

      assert_raise FunctionClauseError, message, fn ->
        apply(Registry, :start_link, [:none, :a])
      end

      assert_raise FunctionClauseError, message, fn ->
        apply(Registry, :start_link, [:unique, "name"])
      end
    end
  end

  describe "child_spec/1" do
    test "has the registry's name as its id and the options unchanged", _context do
      options = [keys: :unique, name: :some_registry, anything: 1]

      assert %{id: :some_registry, start: {Registry, :start_link, [^options]}} =
               Registry.child_spec(options)
    end

    test "does not check the options", _context do
      assert %{id: Registry, start: {Registry, :start_link, [[]]}} = Registry.child_spec([])
    end

    test "puts several registries under one supervisor", _context do
      names = for index <- 1..3, do: unique_name("supervised_#{index}")
      children = for name <- names, do: {Registry, keys: :unique, name: name}
      {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

      for name <- names, do: {:ok, _} = Registry.register(name, "key", name)
      for name <- names, do: assert(Registry.lookup(name, "key") == [{self(), name}])

      # The standard library links registrants to its partitions.
      Process.flag(:trap_exit, true)
      :ok = Supervisor.stop(supervisor)

      for name <- names do
        assert_raise ArgumentError, fn -> Registry.lookup(name, "key") end
        assert Process.whereis(name) == nil
      end
    end
  end

  test "a stopped registry is unknown, and starts again empty", %{registry: registry} do
    Process.flag(:trap_exit, true)
    {:ok, _} = Registry.register(registry, "key", 1)
    :ok = Registry.put_meta(registry, :key, 1)
    :ok = stop_supervised(registry)

    assert_raise ArgumentError, "unknown registry: #{inspect(registry)}", fn ->
      Registry.lookup(registry, "key")
    end

    start_registry(keys: :duplicate, name: registry)
    assert Registry.lookup(registry, "key") == []
    assert Registry.keys(registry, self()) == []
    assert Registry.count(registry) == 0
    assert Registry.meta(registry, :key) == :error
  end

  defp start(options), do: Registry.start_link([keys: :unique, name: :never_started] ++ options)
end
