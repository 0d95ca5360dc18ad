defmodule Foundation.AgentRegistry.LegacyTest do
  # Not async: the flags and the agents' table are global.
  use Foundation.Case, async: false

  import Foundation.Meanwhile

  alias Foundation.{AgentRegistry, FeatureFlags, Registry}

  @flag :use_ets_agent_registry
  @table :foundation_agent_registry

  setup do
    :ok = FeatureFlags.boot()
    :ok = FeatureFlags.disable(@flag)
    for {id, _pid} <- AgentRegistry.list_agents(), do: AgentRegistry.unregister_agent(id)
    on_exit(fn -> :ok = FeatureFlags.boot() end)
  end

  defp on, do: :ok = FeatureFlags.enable(@flag)
  defp off, do: :ok = FeatureFlags.disable(@flag)

  describe "with the flag off" do
    test "agents are registered, found, changed and removed" do
      pid = start_worker()
      assert AgentRegistry.register_agent("a", pid, %{calls: 1}) == :ok
      assert AgentRegistry.register_agent({:b, 1}, pid) == :ok
      assert AgentRegistry.get_agent("a") == {:ok, pid}
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{calls: 1}}}
      assert AgentRegistry.get_agent_with_metadata({:b, 1}) == {:ok, {pid, %{}}}
      assert Enum.sort(AgentRegistry.list_agents()) == Enum.sort([{"a", pid}, {{:b, 1}, pid}])
      assert AgentRegistry.count() == 2

      assert AgentRegistry.update_metadata("a", &Map.update!(&1, :calls, fn n -> n + 1 end)) ==
               :ok

      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{calls: 2}}}
      assert AgentRegistry.update_metadata("a", %{new: 1}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{new: 1}}}
      assert_raise ArgumentError, fn -> AgentRegistry.update_metadata("a", fn _ -> nil end) end
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{new: 1}}}

      assert AgentRegistry.unregister_agent("a") == :ok
      assert AgentRegistry.unregister_agent("a") == {:error, :not_found}
      assert AgentRegistry.get_agent("a") == {:error, :not_found}
      assert AgentRegistry.update_metadata("a", %{}) == {:error, :not_found}
      assert AgentRegistry.count() == 1
    end

    test "registering the same agent keeps or replaces metadata, and another pid is refused" do
      {pid, other} = {start_worker(), start_worker()}
      assert AgentRegistry.register_agent("a", pid, %{n: 1}) == :ok
      assert AgentRegistry.register_agent("a", pid) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{n: 1}}}
      assert AgentRegistry.register_agent("a", pid, %{n: 2}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {pid, %{n: 2}}}

      assert AgentRegistry.register_agent("a", other) == {:error, {:already_registered, pid}}
      assert AgentRegistry.register_agent("b", dead_pid()) == {:error, :not_alive}
    end

    test "a dead agent is not found and its id is free" do
      {pid, other} = {start_worker(), start_worker()}
      :ok = AgentRegistry.register_agent("a", pid)
      kill(pid)
      assert AgentRegistry.get_agent("a") == {:error, :not_found}
      assert AgentRegistry.list_agents() == []
      assert AgentRegistry.register_agent("a", other) == :ok
      assert AgentRegistry.get_agent("a") == {:ok, other}
    end

    test "agents are in the process dictionary, invisible to other processes" do
      :ok = AgentRegistry.register_agent("a", self(), %{n: 1})
      assert Process.get(:registered_agents) == %{"a" => {self(), %{n: 1}}}
      assert Registry.lookup(@table, "a") == []

      assert Task.await(Task.async(fn -> AgentRegistry.get_agent("a") end)) ==
               {:error, :not_found}
    end

    test "a bare pid in the process dictionary is an agent without metadata" do
      Process.put(:registered_agents, %{"a" => self(), "b" => {self(), %{n: 1}}})
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{}}}
      assert Enum.sort(AgentRegistry.list_agents()) == [{"a", self()}, {"b", self()}]
      assert AgentRegistry.update_metadata("a", %{n: 2}) == :ok
      assert AgentRegistry.get_agent_with_metadata("a") == {:ok, {self(), %{n: 2}}}
    end

    test "the same events are emitted as with the flag on" do
      id = make_ref()
      events = for event <- [:register, :unregister], do: [:foundation, :registry, event]
      :ok = :telemetry.attach_many(id, events, &__MODULE__.tell/4, self())
      on_exit(fn -> :telemetry.detach(id) end)

      :ok = AgentRegistry.register_agent("told", self())
      assert_receive {:register, %{count: 1}, %{agent_id: "told"}}
      :ok = AgentRegistry.register_agent("told", self(), %{})
      :ok = AgentRegistry.unregister_agent("told")
      assert_receive {:unregister, %{count: 1}, %{agent_id: "told"}}
      refute_received {:register, _, _}
    end

    test "agents that are in the table are found, changed and removed there" do
      on()
      :ok = AgentRegistry.register_agent("a", self(), %{n: 1})
      off()
      assert AgentRegistry.get_agent("a") == {:ok, self()}
      assert AgentRegistry.update_metadata("a", %{n: 2}) == :ok
      assert [{_pid, %{n: 2}}] = Registry.lookup(@table, "a")
      assert AgentRegistry.register_agent("a", self(), %{n: 3}) == :ok
      assert [{_pid, %{n: 3}}] = Registry.lookup(@table, "a")
      assert AgentRegistry.count() == 1
      assert AgentRegistry.unregister_agent("a") == :ok
      assert AgentRegistry.count() == 0
    end

    test "every call raises with the reason when the process dictionary is disallowed" do
      :ok = FeatureFlags.enable(:enforce_no_process_dict)
      message = ~r/enforce_no_process_dict is on, got one because :use_ets_agent_registry is off/

      for use <- [
            fn -> AgentRegistry.register_agent("a", self()) end,
            fn -> AgentRegistry.get_agent("a") end,
            fn -> AgentRegistry.get_agent_with_metadata("a") end,
            fn -> AgentRegistry.update_metadata("a", %{}) end,
            fn -> AgentRegistry.unregister_agent("a") end,
            &AgentRegistry.list_agents/0,
            &AgentRegistry.count/0
          ] do
        assert_raise RuntimeError, message, use
      end
    end
  end

  test "with a percentage, the agent's id decides whether it is in the table" do
    :ok = FeatureFlags.set_percentage(@flag, 50)
    for n <- 1..100, do: :ok = AgentRegistry.register_agent(n, self())

    shared = for n <- 1..100, Registry.lookup(@table, n) != [], do: n
    assert shared == for(n <- 1..100, FeatureFlags.enabled_for_id?(@flag, n), do: n)
    assert length(shared) in 20..80
    assert AgentRegistry.count() == 100
    for n <- 1..100, do: assert(AgentRegistry.get_agent(n) == {:ok, self()})
  end

  describe "when the flag is turned on" do
    test "a process's agents move to the table with its next call of any kind" do
      for {call, n} <- [
            {fn -> AgentRegistry.get_agent("none") end, 1},
            {fn -> AgentRegistry.register_agent("new", self()) end, 2},
            {&AgentRegistry.list_agents/0, 1},
            {&AgentRegistry.count/0, 1},
            {fn -> AgentRegistry.unregister_agent("none") end, 1},
            {fn -> AgentRegistry.update_metadata("moved", %{n: 2}) end, 1}
          ] do
        off()
        :ok = AgentRegistry.register_agent("moved", self(), %{n: 2})
        on()
        call.()
        assert Registry.lookup(@table, "moved") == [{self(), %{n: 2}}]
        refute :registered_agents in Process.get_keys()
        assert AgentRegistry.count() == n
        for id <- ["moved", "new"], do: AgentRegistry.unregister_agent(id)
      end
    end

    test "an id held by two processes stays with the first, with a warning" do
      worker = start_worker()
      :ok = run(worker, fn -> AgentRegistry.register_agent("twice", worker) end)
      :ok = AgentRegistry.register_agent("twice", self())
      :ok = AgentRegistry.register_agent("once", self())
      on()
      run(worker, fn -> AgentRegistry.count() end)

      log =
        ExUnit.CaptureLog.capture_log(fn ->
          assert AgentRegistry.get_agent("once") == {:ok, self()}
          assert AgentRegistry.get_agent("twice") == {:ok, worker}
        end)

      assert log =~ ~s(expected agent "twice" to be registered by one process)
      assert AgentRegistry.count() == 2
    end
  end

  test "no agent is lost and no call raises while the flag changes" do
    change = fn ->
      on()
      off()
    end

    start = fn worker ->
      for id <- kept(worker), do: :ok = AgentRegistry.register_agent(id, self(), %{n: 0})
    end

    meanwhile(change, start, &work/2)
  end

  defp kept(worker), do: for(n <- 1..5, do: {worker, n})

  defp work(worker, n) do
    for id <- kept(worker) do
      assert AgentRegistry.get_agent(id) == {:ok, self()}
      assert AgentRegistry.update_metadata(id, &Map.update!(&1, :n, fn n -> n + 1 end)) == :ok
      assert AgentRegistry.get_agent_with_metadata(id) == {:ok, {self(), %{n: n + 1}}}
    end

    passing = {worker, :passing, n}
    assert AgentRegistry.register_agent(passing, self()) == :ok
    own = for {id, pid} <- AgentRegistry.list_agents(), pid == self(), uniq: true, do: id
    assert Enum.sort(own) == Enum.sort([passing | kept(worker)])
    assert AgentRegistry.unregister_agent(passing) == :ok
    assert AgentRegistry.get_agent(passing) == {:error, :not_found}
  end

  def tell([_, _, event], measurements, metadata, test),
    do: send(test, {event, measurements, metadata})
end
