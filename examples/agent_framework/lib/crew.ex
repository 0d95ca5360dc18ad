defmodule Crew do
  @moduledoc """
  Agents: processes with an id and a memory, that are told to run actions.

      {:ok, _agent} = Crew.start_agent("ada", memory: "/var/lib/crew/ada")
      {:ok, :noted} = Crew.run("ada", Crew.Actions.Note, %{about: :tea, text: "green"})

  Any process finds an agent by its id. After a crash the agent restarts with its memory. It runs
  an action in the context and the span of the caller.
  """

  alias Crew.{Agent, Caller}
  alias Foundation.AgentRegistry

  @type id :: term

  @doc """
  Starts an agent, supervised. `:memory` is the directory of its checkpoints, its own.

  `{:error, {:already_started, pid}}` if an agent of that id runs.
  """
  @spec start_agent(id, memory: Path.t()) :: DynamicSupervisor.on_start_child()
  def start_agent(id, memory: directory) do
    DynamicSupervisor.start_child(Crew.Agents, {Agent, id: id, checkpoint_dir: directory})
  end

  @doc """
  Runs an action in an agent, and returns what it answers, or `{:error, reason}`.

  The reason of an action that raised is `%{error: exception, context: map}`, the context being the
  one at the point of the raise.
  """
  @spec run(id, module, map) :: {:ok, term} | {:error, term}
  def run(id, action, params \\ %{}) do
    with {:ok, agent} <- AgentRegistry.get_agent(id) do
      GenServer.call(agent, {:run, action, params, Caller.here()})
    end
  end

  @doc "The agents that run, with the number of actions that each has been asked for."
  @spec agents() :: %{id => non_neg_integer}
  def agents do
    for {id, _agent} <- AgentRegistry.list_agents(),
        {:ok, {_agent, %{runs: runs}}} <- [AgentRegistry.get_agent_with_metadata(id)],
        into: %{},
        do: {id, runs}
  end

  @doc "Stops an agent in order: its memory is kept for the next of that id."
  @spec stop_agent(id) :: :ok | {:error, :not_found}
  def stop_agent(id) do
    with {:ok, agent} <- AgentRegistry.get_agent(id), do: GenServer.stop(agent)
  end
end
