defmodule Crew.MigrationTest do
  # async: false, because the stages are those of the whole application.
  use ExUnit.Case, async: false

  alias Foundation.{Audit, ErrorContext, Migration}

  setup do
    %{stage: stage} = Migration.status()
    on_exit(fn -> {:ok, ^stage} = Migration.to_stage(stage) end)
    {:ok, 1} = Migration.to_stage(1)
    :ok
  end

  # As the framework kept its agents before: in the dictionary of whichever process started them.
  defp start_as_before(id) do
    agent = start_supervised!({Agent, fn -> :idle end}, id: id)
    agents = Process.get(:registered_agents, %{})
    Process.put(:registered_agents, Map.put(agents, id, {agent, %{runs: 0}}))
    agent
  end

  defp elsewhere(fun), do: fun |> Task.async() |> Task.await(30_000)

  test "agents of the process dictionary are carried over, and stay in a rollback" do
    start_as_before("old")
    assert Crew.agents()["old"] == 0
    assert elsewhere(&Crew.agents/0)["old"] == nil

    {:ok, 2} = Migration.advance()
    assert elsewhere(&Crew.agents/0)["old"] == 0

    {:ok, 1} = Migration.rollback()
    assert Crew.agents()["old"] == 0
  end

  test "the context of a request survives the stage that moves it" do
    ErrorContext.set_context(%{request_id: "r-1"})
    assert Process.get(:error_context) == %{request_id: "r-1"}

    {:ok, 3} = Migration.to_stage(3)
    assert ErrorContext.get_context() == %{request_id: "r-1"}
    assert Logger.metadata()[:request_id] == "r-1"
    assert Process.get(:error_context) == nil
  end

  test "the last stage refuses nothing, since the framework keeps nothing in a dictionary" do
    {:ok, 5} = Migration.to_stage(5)
    assert Crew.agents() == %{}
    assert Audit.run(["lib"]) |> Map.take([:findings, :problems]) == %{findings: [], problems: []}
  end
end
