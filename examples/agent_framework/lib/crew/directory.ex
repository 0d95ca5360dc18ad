defmodule Crew.Directory do
  @moduledoc false
  # Starts an agent once, on this node or on all nodes of a cluster. The agent registers itself.

  alias Foundation.{AgentRegistry, Cluster, Registry}

  # The table of `Foundation.AgentRegistry`.
  @table :foundation_agent_registry

  @spec ensure(Crew.id()) :: {:ok, pid} | {:error, term}
  def ensure(id) do
    with {:error, :not_found} <- AgentRegistry.get_agent(id) do
      if clustered?(),
        do: Cluster.ensure(@table, id, {__MODULE__, :start, [id]}),
        else: Registry.ensure(@table, id, fn -> start(id) end)
    end
  end

  defp clustered? do
    :foundation |> Application.get_env(:agent_registry, []) |> Keyword.get(:cluster) != nil
  end

  @doc false
  def start(id) do
    Crew.start_agent(id)
  catch
    # The supervisor of the agents is being restarted.
    :exit, {_reason, {GenServer, :call, _arguments}} -> {:error, :agent_down}
  end
end
