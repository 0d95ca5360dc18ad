defmodule Crew.Agent do
  @moduledoc false
  # The process of one agent. Its memory is its state, checkpointed and restored.

  use Foundation.StateManager, checkpoint_interval: 1_000, restart: :transient

  alias Crew.{Action, Caller}
  alias Foundation.AgentRegistry

  # Runs in the supervisor, also when it starts an agent anew after a crash.
  def start_link(options) do
    id = Keyword.fetch!(options, :id)

    with {:error, :not_found} <- AgentRegistry.get_agent(id),
         {:ok, agent} <- super([name: nil] ++ options) do
      register(id, agent)
    else
      {:ok, running} -> {:error, {:already_started, running}}
      {:error, _reason} = error -> error
    end
  end

  defp register(id, agent) do
    with {:error, _taken} = error <- AgentRegistry.register_agent(id, agent, %{runs: 0}) do
      GenServer.stop(agent)
      error
    else
      :ok -> {:ok, agent}
    end
  end

  @impl Foundation.StateManager
  def initial_state(options), do: %{id: options[:id], memory: %{}}

  @impl GenServer
  def handle_call({:run, action, params, caller}, _from, agent) do
    :ok = AgentRegistry.update_metadata(agent.id, &Map.update!(&1, :runs, fn n -> n + 1 end))

    case Caller.continue(caller, fn -> Action.run(action, params, agent) end) do
      {:ok, answer, memory} -> {:reply, {:ok, answer}, %{agent | memory: memory}}
      {:error, _reason} = error -> {:reply, error, agent}
    end
  end
end
