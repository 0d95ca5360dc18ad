defmodule Foundation.HealthCheckTest do
  # Not async: stops the registry's supervisor.
  use Foundation.Case, async: false

  alias Foundation.{AgentRegistry, HealthCheck}

  test "the registry's figures equal those of the agents' table" do
    before = HealthCheck.check_registry()
    :ok = AgentRegistry.register_agent({:health, 1}, self())

    assert %{table_exists: true, owner_alive: true, drops: 0} =
             check = HealthCheck.check_registry()

    assert check.entry_count == before.entry_count + 1
    assert check.memory_usage > 0
    assert check.engine in [:native, :ets]
    assert check.processes |> Map.values() |> Enum.all?()
  end

  test "without the registry's supervisor the figures report no table and do not raise" do
    :ok = Supervisor.terminate_child(Foundation.Supervisor, Foundation.RegistrySupervisor)

    assert %{
             table_exists: false,
             owner_alive: false,
             entry_count: 0,
             memory_usage: 0,
             engine: nil,
             processes: processes
           } = HealthCheck.check_registry()

    refute processes |> Map.values() |> Enum.any?()

    {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, Foundation.RegistrySupervisor)
    assert %{table_exists: true} = HealthCheck.check_registry()
  end

  doctest HealthCheck

  test "the report has the figures of all areas, the flags and the stage" do
    assert %{
             registry: %{table_exists: true},
             telemetry: %{tables_exist: true},
             event_log: %{logs: %{}},
             flags: %{server: true, values: %{use_ets_agent_registry: true}},
             resilience: %{bulkheads: %{}, circuit_breakers: %{}, rate_limiters: %{}},
             migration: %{stage: 4},
             error_context: %{server: true}
           } = HealthCheck.check_all()
  end

  describe "the status" do
    # Every supervised process, with its supervisor, at any depth.
    defp tree(supervisor \\ Foundation.Supervisor) do
      Enum.flat_map(Supervisor.which_children(supervisor), fn
        {id, pid, :supervisor, _modules} -> [{supervisor, id} | tree(pid)]
        {id, _pid, :worker, _modules} -> [{supervisor, id}]
      end)
    end

    test "is :ok or names the processes that are down, at any depth" do
      assert HealthCheck.status() == :ok

      for {supervisor, id} <- tree() do
        # The child's supervisor may have been restarted.
        {supervisor, id} = Enum.find(tree(), {supervisor, id}, fn {_, other} -> other == id end)
        :ok = Supervisor.terminate_child(supervisor, id)
        assert {:degraded, reasons} = HealthCheck.status()
        assert {:down, id} in reasons
        assert is_map(HealthCheck.check_all())
        {:ok, _pid} = Supervisor.restart_child(supervisor, id)
        assert HealthCheck.status() == :ok
      end
    end

    test "names the missing tables" do
      :ok = Supervisor.terminate_child(Foundation.Supervisor, Foundation.TelemetrySupervisor)
      :ok = Supervisor.terminate_child(Foundation.Supervisor, Foundation.RegistrySupervisor)
      assert {:degraded, reasons} = HealthCheck.status()

      assert [missing: :registry, missing: :telemetry] ==
               Enum.filter(reasons, &match?({:missing, _}, &1))

      for child <- [Foundation.RegistrySupervisor, Foundation.TelemetrySupervisor] do
        {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, child)
      end

      assert HealthCheck.status() == :ok
    end
  end
end
