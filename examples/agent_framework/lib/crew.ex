defmodule Crew do
  @moduledoc """
  Agents: processes with an id and a memory, that are told to run actions.

      {:ok, _agent} = Crew.ensure_agent("ada")
      {:ok, :noted} = Crew.run("ada", Crew.Actions.Note, %{about: :tea, text: "green"})
      {:ok, answer} = Crew.deliver("ada", Crew.Actions.Think, %{question: "Why green?"})

  Any process finds an agent by its id. An action runs in the context and the span of its caller.
  An agent writes to an event log before it answers, so an agent that is killed restarts with all
  that it has learned.
  """

  alias Crew.{Agent, Caller, Directory}
  alias Foundation.{AgentRegistry, Retry}

  @type id :: term
  @type answer :: {:ok, term} | {:error, term}

  # An action may wait for the model, and repeat its calls.
  @timeout_ms 60_000

  @doc """
  Starts an agent, supervised.

  `{:error, {:already_started, pid}}` if an agent of that id runs.
  """
  @spec start_agent(id) :: {:ok, pid} | {:error, term}
  def start_agent(id) do
    with :ignore <- DynamicSupervisor.start_child(Crew.Agents, {Agent, id}) do
      case AgentRegistry.get_agent(id) do
        {:ok, running} -> {:error, {:already_started, running}}
        # It has ended since.
        {:error, :not_found} -> start_agent(id)
      end
    end
  end

  @doc "Returns the agent of that id; starts it if there is none, once for all callers."
  @spec ensure_agent(id) :: {:ok, pid} | {:error, term}
  def ensure_agent(id), do: Directory.ensure(id)

  @doc """
  Runs an action in an agent, and returns what it answers, or `{:error, reason}`.

  The reason of an action that raised is `%{error: exception, context: map}`, with the context at
  the point of the raise. It is `:agent_down` where the agent ended meanwhile. The action may have
  been run then. A caller that repeats it passes the same `run_id:`, and the agent does not learn
  the results of that run twice.
  """
  @spec run(id, module, map, run_id: binary) :: answer
  def run(id, action, params \\ %{}, options \\ []) do
    run_id = Keyword.get_lazy(options, :run_id, &new_run_id/0)

    with {:ok, agent} <- AgentRegistry.get_agent(id),
         do: call(agent, {:run, run_id, action, params, Caller.here()})
  end

  defp call(agent, request) do
    GenServer.call(agent, request, @timeout_ms)
  catch
    :exit, {:timeout, _call} -> {:error, :timeout}
    :exit, {_reason, {GenServer, :call, _arguments}} -> {:error, :agent_down}
  end

  @doc """
  Runs an action as `run/4` does, exactly once, however often its agent is killed meanwhile.

  Starts the agent where there is none. Gives up after a minute.
  """
  @spec deliver(id, module, map) :: answer
  def deliver(id, action, params \\ %{}) do
    run_id = new_run_id()

    Retry.run(
      fn ->
        with {:ok, _agent} <- ensure_agent(id), do: run(id, action, params, run_id: run_id)
      end,
      max_attempts: 1_000,
      base_ms: 5,
      max_ms: 100,
      budget_ms: @timeout_ms,
      retry?: &gone?/1
    )
  end

  # Between its death and its restart an agent is not found; its supervisor may be away too.
  defp gone?({:return, {:error, reason}}), do: reason in [:agent_down, :not_found, :not_alive]
  defp gone?({:return, _answer}), do: false
  defp gone?({:raise, _exception}), do: false

  defp new_run_id, do: Base.url_encode64(:crypto.strong_rand_bytes(12))

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
