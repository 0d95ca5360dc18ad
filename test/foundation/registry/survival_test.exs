defmodule Foundation.Registry.SurvivalTest do
  import Foundation.Conformance.Registry

  # Not async: captures the log, and needs idle processes of the application.
  conformance "Survival",
    subjects: :ours,
    async: false,
    variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}, partitions: 4]] do
    import ExUnit.CaptureLog

    # The supervisor starts the successor.
    defp await_successor(registry, owner) do
      eventually(fn ->
        match?(pid when is_pid(pid) and pid != owner, Process.whereis(registry))
      end)

      Process.whereis(registry)
    end

    # A killed supervisor leaves an owner that has not noticed the death yet. The supervisor's
    # successor starts the registry in `successor`.
    test "a start waits for a predecessor whose supervisor is dead", %{options: options} do
      options = Keyword.merge(options, name: unique_name("left_behind"))
      [supervisor, successor] = start_workers(2)
      {:ok, owner} = run(supervisor, fn -> Registry.start_link(options) end)
      {:ok, ^owner} = Registry.register(options[:name], "key", 1)

      :erlang.suspend_process(owner)
      kill(supervisor)

      task =
        Task.async(fn ->
          run(successor, fn ->
            Process.flag(:trap_exit, true)
            Registry.start_link(options)
          end)
        end)

      eventually(fn -> not Process.alive?(task.pid) or starts?(successor) end)
      assert Process.alive?(owner)

      capture_log(fn ->
        :erlang.resume_process(owner)
        assert {:ok, started} = Task.await(task, 30_000)
        assert Process.whereis(options[:name]) == started
      end)

      assert Registry.lookup(options[:name], "key") == [{self(), 1}]
    end

    test "a start does not wait for an owner that was unlinked from its starter", %{
      options: options
    } do
      options = Keyword.merge(options, name: unique_name("unlinked"))
      starter = start_worker()

      owner =
        run(starter, fn ->
          {:ok, owner} = Registry.start_link(options)
          Process.unlink(owner)
          owner
        end)

      kill(starter)
      assert Registry.start_link(options) == {:error, {:already_started, owner}}
      GenServer.stop(owner)
    end

    test "a start under a contended name succeeds or returns the name's owner", %{
      options: options
    } do
      name = unique_name("now_and_then")
      other = start_supervised!({Task, fn -> take_and_give_back(name) end})

      run(start_worker(), fn ->
        Process.flag(:trap_exit, true)

        for _ <- 1..200 do
          case Registry.start_link(Keyword.merge(options, name: name)) do
            {:ok, owner} -> GenServer.stop(owner)
            error -> assert error == {:error, {:already_started, other}}
          end
        end
      end)
    end

    defp take_and_give_back(name) do
      try do
        Process.register(self(), name)
      rescue
        ArgumentError -> :taken
      else
        true -> Process.unregister(name)
      end

      take_and_give_back(name)
    end

    # Whether the process that a worker starts is waiting. It is the worker's only link.
    defp starts?(worker) do
      with {:links, [started]} <- Process.info(worker, :links),
           do: Process.info(started, :status) == {:status, :waiting}
    end

    # An owner without a restart.
    defp start_temporary(options) do
      options = options ++ [name: unique_name("temporary")] ++ @subject.options
      name = options[:name]
      spec = Supervisor.child_spec({Registry, options}, restart: :temporary, id: name)
      {name, start_supervised!(spec)}
    end

    test "the successor of a killed owner has the entries", %{registry: registry, owner: owner} do
      worker = start_worker()
      {:ok, ^owner} = run(worker, fn -> Registry.register(registry, "theirs", 1) end)
      {:ok, ^owner} = Registry.register(registry, "ours", 2)

      kill(owner)
      successor = await_successor(registry, owner)

      assert Registry.lookup(registry, "theirs") == [{worker, 1}]
      assert Registry.keys(registry, self()) == ["ours"]
      assert Registry.count(registry) == 2
      assert {:ok, ^successor} = Registry.register(registry, "more", 3)
    end

    test "the successor of a crashed owner has the table", %{
      registry: registry,
      owner: owner
    } do
      {:ok, _owner} = Registry.register(registry, "key", 1)
      capture_log(fn -> GenServer.stop(owner, :crash) end)
      await_successor(registry, owner)
      assert Registry.lookup(registry, "key") == [{self(), 1}]
    end

    test "an ownerless table is read and written, and dead processes are removed" do
      {registry, owner} = start_temporary(@variant)
      worker = start_worker()
      {:ok, _owner} = run(worker, fn -> Registry.register(registry, "theirs", 1) end)
      kill(owner)

      assert Registry.lookup(registry, "theirs") == [{worker, 1}]
      assert {:ok, ^owner} = Registry.register(registry, "ours", 2)
      assert Registry.put_meta(registry, :meta, 1) == :ok
      assert Registry.unregister(registry, "ours") == :ok
      kill(worker)
      assert Registry.lookup(registry, "theirs") == []
      eventually(fn -> Registry.count(registry) == 0 end)
    end

    for reason <- [:normal, :shutdown, {:shutdown, :done}] do
      test "the table ends with an owner that stops with #{inspect(reason)}" do
        {registry, owner} = start_temporary(@variant)
        {:ok, _owner} = Registry.register(registry, "key", 1)
        GenServer.stop(owner, unquote(Macro.escape(reason)))

        assert_raise ArgumentError, "unknown registry: #{inspect(registry)}", fn ->
          Registry.lookup(registry, "key")
        end
      end
    end

    test "a signal stops the owner as it would stop any process" do
      {registry, owner} = start_temporary(@variant)
      Process.exit(owner, :normal)
      assert Registry.count(registry) == 0
      kill(owner, :shutdown)
      assert_raise ArgumentError, fn -> Registry.count(registry) end
    end

    test "a table that is not adopted in time is destroyed" do
      {registry, owner} = start_temporary([adopt_timeout: 20] ++ @variant)
      {:ok, _owner} = Registry.register(registry, "key", 1)
      kill(owner)

      eventually(fn ->
        match?({:error, %ArgumentError{}}, attempt(fn -> Registry.count(registry) end))
      end)
    end

    test "an :adopt_timeout out of range fails the start and affects no other registry" do
      for timeout <- [-1, 2 ** 32, 10 ** 13, 2 ** 64, 1.0, nil] do
        message =
          "expected :adopt_timeout of Registry.start_link/1 to be an integer from 0 to " <>
            "4294967295 or :infinity, got: #{inspect(timeout)}"

        assert_raise ArgumentError, message, fn ->
          Registry.start_link(
            [keys: :unique, name: :never_started, adopt_timeout: timeout] ++ @subject.options
          )
        end
      end
    end

    test "a number of partitions or entries out of range is refused at the start" do
      for {key, range, value} <- [
            {":partitions", "1 to 4294967295", [partitions: 2 ** 32]},
            {":partitions", "1 to 4294967295", [partitions: 2 ** 64]},
            {":max_entries of Registry.start_link/1", "1 to 4294967295 or :infinity",
             [max_entries: 2 ** 64]}
          ] do
        [{_key, number}] = value
        message = "expected #{key} to be an integer from #{range}, got: #{number}"

        assert_raise ArgumentError, message, fn ->
          Registry.start_link([keys: :unique, name: :never_started] ++ value ++ @subject.options)
        end
      end
    end

    test "a table stays with an :adopt_timeout of :infinity and with the longest one" do
      for timeout <- [:infinity, 2 ** 32 - 1] do
        {registry, owner} = start_temporary([adopt_timeout: timeout] ++ @variant)
        {:ok, _owner} = Registry.register(registry, "key", 1)
        kill(owner)
        # The time-out of a second registry is short. Its end shows that the first one's was set
        # too.
        let_another_expire(1)
        assert Registry.lookup(registry, "key") == [{self(), 1}]
      end
    end

    test "a table adopted in time stays after its :adopt_timeout" do
      {registry, owner} = start_temporary([adopt_timeout: 20] ++ @variant)
      {:ok, _owner} = Registry.register(registry, "key", 1)
      kill(owner)
      {:ok, _pid} = Registry.start_link([name: registry] ++ @variant ++ @subject.options)

      # A registry that loses its owner later also expires later. Once it is gone, the time is over.
      let_another_expire(20)
      assert Registry.lookup(registry, "key") == [{self(), 1}]
    end

    # Starts another registry, kills its owner, and returns when the registry has expired.
    defp let_another_expire(adopt_timeout) do
      {other, owner} = start_temporary([adopt_timeout: adopt_timeout] ++ @variant)
      kill(owner)

      eventually(fn ->
        match?({:error, %ArgumentError{}}, attempt(fn -> Registry.count(other) end))
      end)
    end

    defp attempt(fun) do
      {:ok, fun.()}
    rescue
      error -> {:error, error}
    end

    @tag registry: [meta: [given: 1, changed: 1]]
    test "metadata survives a successor and has priority over its options", %{
      registry: registry,
      owner: owner
    } do
      Registry.put_meta(registry, :changed, 2)
      Registry.put_meta(registry, {:added, 1}, 3)
      Registry.delete_meta(registry, :given)
      kill(owner)
      await_successor(registry, owner)

      assert Registry.meta(registry, :changed) == {:ok, 2}
      assert Registry.meta(registry, {:added, 1}) == {:ok, 3}
      # After the deletion, the value from the start applies again.
      assert Registry.meta(registry, :given) == {:ok, 1}
    end

    test "listeners get messages without an owner and after its successor starts" do
      listener = unique_name("listener")
      Process.register(self(), listener)
      {registry, owner} = start_temporary([listeners: [listener]] ++ @variant)
      kill(owner)
      me = self()

      {:ok, _owner} = Registry.register(registry, "key", 1)
      assert_received {:register, ^registry, "key", ^me, 1}

      {:ok, _pid} =
        Registry.start_link(
          [name: registry, listeners: [listener]] ++ @variant ++ @subject.options
        )

      Registry.unregister(registry, "key")
      assert_received {:unregister, ^registry, "key", ^me}
    end

    test "listeners stay when the successor gives none, and end when it gives an empty list" do
      listener = unique_name("listener")
      Process.register(self(), listener)
      {registry, owner} = start_temporary([listeners: [listener]] ++ @variant)
      kill(owner)
      me = self()

      {^registry, owner} = start_temporary([name: registry] ++ @variant)
      {:ok, _owner} = Registry.register(registry, "key", 1)
      assert_received {:register, ^registry, "key", ^me, 1}

      kill(owner)
      start_temporary([name: registry, listeners: []] ++ @variant)
      Registry.unregister(registry, "key")
      refute_received {:unregister, ^registry, "key", ^me}
    end

    test "a successor with other :keys has only its own listeners" do
      listener = unique_name("listener")
      Process.register(self(), listener)
      {registry, owner} = start_temporary([listeners: [listener]] ++ @variant)
      kill(owner)
      other = if @variant[:keys] == :unique, do: :duplicate, else: :unique

      capture_log(fn ->
        {:ok, _pid} = Registry.start_link([keys: other, name: registry] ++ @subject.options)
      end)

      {:ok, _owner} = Registry.register(registry, "key", 1)
      refute_received {:register, ^registry, "key", _pid, 1}
    end

    # In this module, because no test may run beside it: other tests cannot use these names.
    test "a name may be any atom that the VM accepts as a registered name" do
      for name <- [nil, true, false] do
        options = [name: name] ++ @variant ++ @subject.options
        owner = start_supervised!({Registry, options})
        assert Process.whereis(name) == owner
        assert {:ok, ^owner} = Registry.register(name, "key", 1)
        assert Registry.lookup(name, "key") == [{self(), 1}]
        assert Registry.start_link(options) == {:error, {:already_started, owner}}
        :ok = stop_supervised(name)
      end

      assert Registry.start_link([name: :undefined] ++ @variant ++ @subject.options) ==
               {:error, {:already_started, :undefined}}
    end

    test "a successor with other :keys starts empty and logs that" do
      {registry, owner} = start_temporary(@variant)
      {:ok, _owner} = Registry.register(registry, "key", 1)
      kill(owner)
      other = if @variant[:keys] == :unique, do: :duplicate, else: :unique

      log =
        capture_log(fn ->
          {:ok, _pid} = Registry.start_link([keys: other, name: registry] ++ @subject.options)
        end)

      assert log =~ "registry #{inspect(registry)} was started with keys:"
      assert Registry.lookup(registry, "key") == []
      assert Registry.count(registry) == 0
    end

    test "a second start returns the first owner", %{registry: registry, owner: owner} do
      assert Registry.start_link([name: registry] ++ @variant ++ @subject.options) ==
               {:error, {:already_started, owner}}
    end

    test "no registrant is linked to the owner", %{registry: registry, owner: owner} do
      {:links, before} = Process.info(self(), :links)
      {:ok, ^owner} = Registry.register(registry, "key", 1)
      assert Process.info(self(), :links) == {:links, before}
    end

    test "supervisor calls to a registry get an answer", %{registry: registry} do
      assert Supervisor.which_children(registry) == []
      assert Supervisor.count_children(registry).active == 0
    end
  end
end

defmodule Foundation.Registry.SuccessionTest do
  # Not async: suspends the process that gives out all tables of the ETS engine.
  use Foundation.Case, async: false

  alias Foundation.Registry
  alias Foundation.Registry.TableHolder

  # The successors that wait for their table.
  defp claims(holder) do
    {:messages, messages} = Process.info(holder, :messages)
    for {:"$gen_call", {pid, _tag}, {:claim, _options}} <- messages, do: pid
  end

  # The registry is linked to a worker and ends with it.
  defp start_meanwhile(name) do
    worker = start_worker()
    options = [keys: :unique, name: name, engine: :ets, adopt_timeout: 20]

    Task.async(fn ->
      run(worker, fn ->
        Process.flag(:trap_exit, true)
        started = Registry.start_link(options)
        {started, Process.info(self(), :messages)}
      end)
    end)
  end

  setup do
    holder = Process.whereis(TableHolder)
    :sys.suspend(holder)
    on_exit(fn -> :sys.resume(holder) end)
    %{holder: holder}
  end

  test "a successor takes the name only after it has the table", %{holder: holder} do
    name = unique_name("succession")
    :sys.resume(holder)
    start_supervised!({Registry, keys: :unique, name: name, engine: :ets})
    {:ok, owner} = Registry.register(name, "ours", 1)
    :sys.suspend(holder)

    kill(owner)
    [successor] = eventually(fn -> match?([_], claims(holder)) && claims(holder) end)
    assert Process.whereis(name) == nil
    assert Registry.register(name, "meanwhile", 2) == {:ok, owner}

    :sys.resume(holder)
    assert eventually(fn -> Process.whereis(name) end) == successor
    assert Registry.register(name, "more", 3) == {:ok, successor}
  end

  test "a registered name always leads to a table", %{holder: holder} do
    name = unique_name("first")
    start = start_meanwhile(name)
    eventually(fn -> claims(holder) != [] end)
    assert Process.whereis(name) == nil

    :sys.resume(holder)
    eventually(fn -> Process.whereis(name) end)
    assert Registry.count(name) == 0
    assert {{:ok, _owner}, _messages} = Task.await(start, 30_000)
  end

  test "a name that another process takes during a start stays with that process", %{
    holder: holder
  } do
    name = unique_name("taken")
    start = start_meanwhile(name)
    eventually(fn -> claims(holder) != [] end)

    Process.register(self(), name)
    :sys.resume(holder)
    {started, messages} = Task.await(start, 30_000)
    assert started == {:error, {:already_started, self()}}
    # As in GenServer: on earlier releases the caller gets an exit message.
    if function_exported?(:proc_lib, :init_fail, 2), do: assert(messages == {:messages, []})
  end
end
