defmodule CrossReference.Supervisor do
  @moduledoc false
  # The registry that the agents are named in, and above the agents one supervisor a
  # scheduler, so that restarts do not queue in one process.

  use Supervisor

  alias CrossReference.Agent

  @registry CrossReference.Registry
  @agents CrossReference.Agents

  @spec start_link(non_neg_integer) :: Supervisor.on_start()
  def start_link(deaths), do: Supervisor.start_link(__MODULE__, deaths, name: __MODULE__)

  @spec registry() :: atom
  def registry, do: @registry

  @doc "Starts the agent of one module."
  @spec start_agent(Agent.Scope.t(), CrossReference.Input.Source.t()) :: pid
  def start_agent(scope, source) do
    supervisor = {:via, PartitionSupervisor, {@agents, source.module}}
    {:ok, agent} = DynamicSupervisor.start_child(supervisor, {Agent, {scope, source}})
    agent
  end

  @doc "Stops all agents, in their supervisors' order, and leaves the registry running."
  @spec stop_agents() :: :ok
  def stop_agents, do: Supervisor.terminate_child(__MODULE__, @agents)

  @impl true
  def init(deaths) do
    children = [
      {Foundation.Registry, keys: :unique, name: @registry},
      # All deaths to come may fall to one supervisor, and within a second.
      {PartitionSupervisor,
       child_spec: DynamicSupervisor.child_spec(max_restarts: deaths, max_seconds: 1),
       name: @agents}
    ]

    # one_for_one: the registry keeps its entries when its owner dies, so that no
    # agent has to start again because of it.
    Supervisor.init(children, strategy: :one_for_one)
  end
end
