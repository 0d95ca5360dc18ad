for engine <- [:ets, :native] do
  defmodule Module.concat(Foundation.AgentRegistryTest, Macro.camelize("#{engine}")) do
    # Not async: the table of agents and its telemetry are global.
    use Foundation.Case, async: false

    alias Foundation.{AgentRegistry, Peer}
    alias Foundation.Registry.{Cleanup, Monitor}

    # The application has one table of agents. These tests run it on each engine.
    setup_all do
      restart_table(engine: unquote(engine))
      on_exit(fn -> restart_table([]) end)
    end

    defp restart_table(options) do
      supervisor = Foundation.RegistrySupervisor
      :ok = Supervisor.terminate_child(supervisor, AgentRegistry.table())
      :ok = Supervisor.delete_child(supervisor, AgentRegistry.table())
      {:ok, _owner} = Supervisor.start_child(supervisor, {AgentRegistry, options})
      :ok
    end

    test "the configured engine is the engine under test" do
      assert Foundation.Registry.info(AgentRegistry.table()).engine == unquote(engine)
    end

    setup do
      for {id, _pid} <- AgentRegistry.list_agents(), do: AgentRegistry.unregister_agent(id)
      eventually(fn -> AgentRegistry.count() == 0 end)
      # Once both have answered, the deaths of an earlier test's agents have been reported.
      for name <- [Monitor, Cleanup], do: :sys.get_state(name)
      :ok
    end

    # Sends the events of the registry to the test.
    defp listen(events) do
      id = make_ref()
      events = for event <- events, do: [:foundation, :registry, event]
      :ok = :telemetry.attach_many(id, events, &__MODULE__.tell/4, self())
      on_exit(fn -> :telemetry.detach(id) end)
    end

    def tell([_, _, event], measurements, metadata, test),
      do: send(test, {event, measurements, metadata})

    def block(_event, %{count: count}, _metadata, test) do
      send(test, {:blocked, self(), count})
      receive do: (:go -> :ok)
    end

    def raise_always(_event, _measurements, _metadata, _config), do: raise("no")

    # The sum of the events, once it is as expected and no event has followed for `quiet_ms`.
    defp cleaned(expected, sum \\ 0, quiet_ms \\ 50) do
      receive do
        {:cleanup, %{count: count}, %{}} when count > 0 ->
          cleaned(expected, sum + count, quiet_ms)
      after
        if(sum < expected, do: 5_000, else: quiet_ms) -> sum
      end
    end

    test "an agent is found by its id, with its metadata" do
      pid = start_worker()
      assert AgentRegistry.register_agent("a", pid, %{role: :planner}) == :ok
      assert AgentRegistry.register_agent({:b, 1}, pid) == :ok
      assert AgentRegistry.get_agent("a") == {:ok, pid}
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{role: :planner}}}
      assert AgentRegistry.get_agent_with_metadata({:b, 1}) == {:ok, {pid, %{}}}
      assert Enum.sort(AgentRegistry.list_agents()) == Enum.sort([{"a", pid}, {{:b, 1}, pid}])
      assert AgentRegistry.count() == 2
    end

    test "an unregistered id returns {:error, :not_found}" do
      assert AgentRegistry.get_agent("none") == {:error, :not_found}
      assert AgentRegistry.get_agent_with_metadata("none") == {:error, :not_found}
      assert AgentRegistry.update_metadata("none", %{}) == {:error, :not_found}
      assert AgentRegistry.update_metadata("none", & &1) == {:error, :not_found}
      assert AgentRegistry.unregister_agent("none") == {:error, :not_found}
      assert AgentRegistry.list_agents() == []
    end

    test "a second process under a taken id is refused" do
      pid = start_worker()
      :ok = AgentRegistry.register_agent("a", pid)
      assert AgentRegistry.register_agent("a", self()) == {:error, {:already_registered, pid}}
    end

    test "registering the same pair again returns :ok, emits nothing and replaces given metadata" do
      :ok = AgentRegistry.register_agent("a", self(), %{v: 1})
      listen([:register, :unregister])
      assert AgentRegistry.register_agent("a", self()) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{v: 1}}}
      assert AgentRegistry.register_agent("a", self(), %{v: 2}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{v: 2}}}
      assert AgentRegistry.register_agent("a", self(), %{}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{}}}
      refute_received {_event, _measurements, _metadata}
    end

    test "a dead process is refused, for a free id and for a taken one" do
      dead = dead_pid()
      assert AgentRegistry.register_agent("a", dead) == {:error, :not_alive}
      :ok = AgentRegistry.register_agent("a", self())
      assert AgentRegistry.register_agent("a", dead) == {:error, :not_alive}
    end

    test "a process of an unreachable node is refused" do
      assert AgentRegistry.register_agent("a", foreign_pid()) == {:error, :not_alive}
    end

    test "a dead agent disappears at once and frees its id" do
      pid = start_worker()
      :ok = AgentRegistry.register_agent("a", pid)
      kill(pid)
      assert AgentRegistry.get_agent("a") == {:error, :not_found}
      assert AgentRegistry.list_agents() == []
      assert AgentRegistry.unregister_agent("a") == {:error, :not_found}
      assert AgentRegistry.register_agent("a", self()) == :ok
      eventually(fn -> AgentRegistry.count() == 1 end)
    end

    test "metadata that is not a map raises" do
      message = "expected metadata to be a map, got: [role: :planner]"
      me = self()

      for call <- [
            fn -> AgentRegistry.register_agent("a", me, role: :planner) end,
            fn -> AgentRegistry.update_metadata("a", role: :planner) end,
            fn ->
              :ok = AgentRegistry.register_agent("a", me)
              AgentRegistry.update_metadata("a", fn _old -> [role: :planner] end)
            end
          ] do
        assert_raise ArgumentError, message, call
      end
    end

    test "an agent that is no pid raises" do
      for wrong <- [nil, :name, "pid", {:via, Registry, {:names, 1}}] do
        message = "expected an agent to be a pid, got: #{inspect(wrong)}"
        assert_raise ArgumentError, message, fn -> AgentRegistry.register_agent("a", wrong) end

        assert_raise ArgumentError, message, fn ->
          AgentRegistry.register_agent("a", wrong, %{})
        end
      end

      assert AgentRegistry.get_agent("a") == {:error, :not_found}
    end

    test "metadata is updated by a map and by a function, from any process" do
      pid = start_worker()
      :ok = AgentRegistry.register_agent("a", pid, %{n: 1})
      assert AgentRegistry.update_metadata("a", &Map.update!(&1, :n, fn n -> n + 1 end)) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{n: 2}}}
      assert AgentRegistry.update_metadata("a", %{m: 1}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{m: 1}}}
    end

    test "an update function that raises changes nothing and blocks no caller" do
      :ok = AgentRegistry.register_agent("a", self(), %{n: 1})

      assert_raise RuntimeError, fn ->
        AgentRegistry.update_metadata("a", fn _ -> raise "no" end)
      end

      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{n: 1}}}
      assert AgentRegistry.update_metadata("a", &%{&1 | n: 2}) == :ok
    end

    test "concurrent update functions lose no update" do
      :ok = AgentRegistry.register_agent("a", self(), %{n: 0})

      1..8
      |> Enum.map(fn _ ->
        Task.async(fn ->
          for _ <- 1..500, do: :ok = AgentRegistry.update_metadata("a", &%{&1 | n: &1.n + 1})
        end)
      end)
      |> Task.await_many(30_000)

      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{n: 4_000}}}
    end

    test "exactly one of many racing callers registers an id, and one removes it" do
      listen([:register, :unregister])
      workers = start_workers(20)

      results =
        workers
        |> Enum.map(&Task.async(fn -> AgentRegistry.register_agent("a", &1) end))
        |> Task.await_many(30_000)

      assert Enum.count(results, &(&1 == :ok)) == 1

      removed =
        1..20
        |> Enum.map(fn _ -> Task.async(fn -> AgentRegistry.unregister_agent("a") end) end)
        |> Task.await_many(30_000)

      assert Enum.frequencies(removed) == %{:ok => 1, {:error, :not_found} => 19}
      assert_received {:register, %{count: 1}, %{agent_id: "a"}}
      assert_received {:unregister, %{count: 1}, %{agent_id: "a"}}
      refute_received {_event, _measurements, _metadata}
    end

    test "clean-up counts add up to the deaths, replaced agents included" do
      listen([:cleanup])
      workers = start_workers(300)
      for {pid, n} <- Enum.with_index(workers), do: :ok = AgentRegistry.register_agent(n, pid)

      {replaced, rest} = Enum.split(workers, 100)

      for {pid, n} <- Enum.with_index(replaced) do
        kill(pid)
        :ok = AgentRegistry.register_agent(n, self())
      end

      Enum.each(rest, &Process.exit(&1, :kill))
      assert cleaned(300) == 300
      assert AgentRegistry.count() == 100
    end

    test "an agent replaced while it dies is counted as cleaned up once" do
      listen([:cleanup])

      for _round <- 1..100 do
        pid = start_worker()
        :ok = AgentRegistry.register_agent("a", pid)
        Process.exit(pid, :kill)
        eventually(fn -> AgentRegistry.register_agent("a", self()) == :ok end)
        assert cleaned(1, 0, 5) == 1
        :ok = AgentRegistry.unregister_agent("a")
      end
    end

    test "unregistered agents and agents of other registries are not counted as cleaned up" do
      listen([:cleanup])
      registry = unique_name("other")
      start_supervised!({Foundation.Registry, keys: :unique, name: registry})
      [one, two, three] = start_workers(3)
      {:ok, _owner} = Foundation.Registry.register_for(registry, one, "a", nil)
      :ok = AgentRegistry.register_agent("b", two)
      :ok = AgentRegistry.unregister_agent("b")
      :ok = AgentRegistry.register_agent("c", three)
      for pid <- [one, two, three], do: kill(pid)
      assert cleaned(1) == 1
    end

    test "a blocking handler delays no clean-up, and then gets one summed event" do
      :ok =
        :telemetry.attach(
          "blocks",
          [:foundation, :registry, :cleanup],
          &__MODULE__.block/4,
          self()
        )

      on_exit(fn -> :telemetry.detach("blocks") end)
      [first | rest] = start_workers(101)
      :ok = AgentRegistry.register_agent(:first, first)
      for {pid, n} <- Enum.with_index(rest), do: :ok = AgentRegistry.register_agent(n, pid)

      kill(first)
      assert_receive {:blocked, handler, 1}
      for pid <- rest, do: kill(pid)
      eventually(fn -> AgentRegistry.count() == 0 end)
      {:message_queue_len, queued} = Process.info(handler, :message_queue_len)
      assert queued <= 1

      send(handler, :go)
      assert_receive {:blocked, ^handler, 100}
      send(handler, :go)
    end

    @tag :capture_log
    test "a handler that raises stops no clean-up" do
      :ok =
        :telemetry.attach(
          "raises",
          [:foundation, :registry, :cleanup],
          &__MODULE__.raise_always/4,
          nil
        )

      on_exit(fn -> :telemetry.detach("raises") end)
      reporter = Process.whereis(Cleanup)
      pid = start_worker()
      :ok = AgentRegistry.register_agent("a", pid)
      kill(pid)
      eventually(fn -> AgentRegistry.count() == 0 end)
      eventually(fn -> :telemetry.list_handlers([:foundation, :registry, :cleanup]) == [] end)
      # It answers after it has logged that the handler was detached.
      :sys.get_state(reporter)
      assert Process.whereis(Cleanup) == reporter
    end

    test "deaths are counted while the reporter and the monitor are down" do
      listen([:cleanup])
      workers = start_workers(10)
      for {pid, n} <- Enum.with_index(workers), do: :ok = AgentRegistry.register_agent(n, pid)
      for name <- [Monitor, Cleanup], do: terminate(name)
      for pid <- workers, do: kill(pid)
      for name <- [Monitor, Cleanup], do: restart(name)
      assert cleaned(10) == 10
    end

    if engine == :native do
      test "the library sends an agent's death to the reporter only" do
        trace([Monitor, Cleanup])
        listen([:cleanup])
        pid = start_worker()
        :ok = AgentRegistry.register_agent("a", pid)
        kill(pid)
        assert cleaned(1) == 1
        reporter = Process.whereis(Cleanup)
        assert_receive {:trace, ^reporter, :receive, {:foundation_registry, :deaths}}
        refute_woken(Monitor)
      end

      test "a death in a registry without a reporter wakes no process" do
        name = unique_name("unreported")
        start_supervised!({Foundation.Registry, name: name, keys: :unique, engine: :native})
        trace([Monitor, Cleanup])
        pid = start_worker()
        {:ok, _owner} = Foundation.Registry.register_for(name, pid, :key, nil)
        kill(pid)
        eventually(fn -> Foundation.Registry.count(name) == 0 end)
        for name <- [Monitor, Cleanup], do: refute_woken(name)
      end

      defp trace(names) do
        for name <- names do
          pid = Process.whereis(name)
          1 = :erlang.trace(pid, true, [:receive])
          on_exit(fn -> Process.alive?(pid) and :erlang.trace(pid, false, [:receive]) end)
        end
      end

      # Once the process has answered, all earlier messages to it have been traced.
      defp refute_woken(name) do
        pid = Process.whereis(name)
        :sys.get_state(pid)
        ref = :erlang.trace_delivered(pid)
        assert_receive {:trace_delivered, ^pid, ^ref}
        refute_received {:trace, ^pid, :receive, {:foundation_registry, :deaths}}
      end
    end

    defp terminate(name),
      do: :ok = Supervisor.terminate_child(Foundation.RegistrySupervisor, name)

    defp restart(name),
      do: {:ok, _pid} = Supervisor.restart_child(Foundation.RegistrySupervisor, name)

    test "an agent on another node is found, and counted when its node goes down" do
      distributed? = Node.alive?()
      :ok = Peer.distribute()
      on_exit(fn -> if not distributed?, do: Peer.undistribute() end)
      {peer, node} = Peer.start()
      [pid, dead] = for _ <- 1..2, do: Peer.spawn_on(node)
      kill(dead)
      listen([:cleanup])

      assert AgentRegistry.register_agent(:dead, dead) == {:error, :not_alive}
      assert AgentRegistry.register_agent(:remote, pid, %{n: 1}) == :ok
      assert AgentRegistry.register_agent(:remote, pid) == :ok
      assert AgentRegistry.update_metadata(:remote, &%{&1 | n: 2}) == :ok
      assert AgentRegistry.get_agent_with_metadata(:remote) == {:ok, {pid, %{n: 2}}}
      Peer.stop(peer)
      assert cleaned(1) == 1
      assert AgentRegistry.get_agent(:remote) == {:error, :not_found}
      assert AgentRegistry.register_agent(:remote, pid) == {:error, :not_alive}
    end

    test "agents survive a kill of their table's owner" do
      owner = Process.whereis(:foundation_agent_registry)
      :ok = AgentRegistry.register_agent("a", self(), %{n: 1})
      kill(owner)
      assert AgentRegistry.get_agent("a") == {:ok, self()}
      eventually(fn -> Process.whereis(:foundation_agent_registry) not in [nil, owner] end)
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{n: 1}}}
    end

    if engine == :native do
      # The owner logs that its parent was killed.
      @tag :capture_log
      test "agents survive a kill of the registry's whole supervisor" do
        :ok = AgentRegistry.register_agent("a", self(), %{n: 1})
        owner = Process.whereis(AgentRegistry.table())
        kill(Process.whereis(Foundation.RegistrySupervisor))
        eventually(fn -> Process.whereis(AgentRegistry.table()) not in [nil, owner] end)
        assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{n: 1}}}
      end
    end

    test "the agents' table can be read with Foundation.Registry" do
      :ok = AgentRegistry.register_agent("a", self(), %{n: 1})
      assert Foundation.Registry.lookup(:foundation_agent_registry, "a") == [{self(), %{n: 1}}]
      assert %{size: 1, keys: 1} = Foundation.Registry.info(:foundation_agent_registry)
    end
  end
end
