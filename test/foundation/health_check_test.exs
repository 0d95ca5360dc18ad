defmodule Foundation.HealthCheckTest do
  # Not async: takes the registry's supervisor down.
  use Foundation.Case, async: false

  alias Foundation.{AgentRegistry, HealthCheck}

  test "the registry's figures are those of the agents' table" do
    before = HealthCheck.check_registry()
    :ok = AgentRegistry.register_agent({:health, 1}, self())

    assert %{table_exists: true, owner_alive: true, drops: 0} =
             check = HealthCheck.check_registry()

    assert check.entry_count == before.entry_count + 1
    assert check.memory_usage > 0
    assert check.engine in [:native, :ets]
    assert check.processes |> Map.values() |> Enum.all?()
  end

  test "with the registry's supervisor terminated there is no table, and no raise" do
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
end
