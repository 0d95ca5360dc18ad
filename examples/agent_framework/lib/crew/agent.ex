defmodule Crew.Agent do
  @moduledoc false
  # The process of one agent. It runs one action after the other, each in its caller's context, and
  # writes to its memory before it answers.

  use GenServer

  alias Crew.{Action, Caller, Memory}
  alias Foundation.AgentRegistry

  def child_spec(id) do
    %{
      id: {__MODULE__, id},
      start: {__MODULE__, :start_link, [id]},
      # One that is stopped in order stays away.
      restart: :transient
    }
  end

  # Runs in the supervisor, also when it starts an agent anew after a crash. By then another caller
  # may have started one of that id. An error would make the supervisor try again and again.
  def start_link(id) do
    with {:error, :not_found} <- AgentRegistry.get_agent(id),
         {:ok, agent} <- GenServer.start_link(__MODULE__, id) do
      register(id, agent)
    else
      {:ok, _running} -> :ignore
      {:error, _reason} = error -> error
    end
  end

  defp register(id, agent) do
    with {:error, reason} <- AgentRegistry.register_agent(id, agent, %{runs: 0}) do
      GenServer.stop(agent)
      if match?({:already_registered, _running}, reason), do: :ignore, else: {:error, reason}
    else
      :ok -> {:ok, agent}
    end
  end

  @impl true
  def init(id) do
    case Memory.open(id) do
      {:ok, memory} -> {:ok, %{id: id, memory: memory}}
      {:error, reason} -> {:stop, reason}
    end
  end

  @impl true
  def handle_call({:run, run_id, action, params, caller}, _from, agent) do
    AgentRegistry.update_metadata(agent.id, &Map.update!(&1, :runs, fn n -> n + 1 end))

    {:reply, run(run_id, action, params, caller, agent), agent}
  end

  defp run(run_id, action, params, caller, agent) do
    case Memory.begin(agent.memory, run_id) do
      {:answer, answer} ->
        {:ok, answer}

      {:notes, notes, version} ->
        result = Caller.continue(caller, fn -> Action.run(action, params, agent.id, notes) end)

        with {:error, :outdated} <- keep(result, agent.memory, run_id, version),
             do: run(run_id, action, params, caller, agent)
    end
  end

  # An action that has learned nothing can be run again.
  defp keep({:ok, answer, notes}, _memory, _run_id, _version) when notes == %{}, do: {:ok, answer}

  defp keep({:ok, answer, notes}, memory, run_id, version) do
    with :ok <- Memory.finish(memory, run_id, version, answer, notes), do: {:ok, answer}
  end

  defp keep({:error, _reason} = error, _memory, _run_id, _version), do: error
end
