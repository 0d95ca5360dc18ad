defmodule Crew.Action do
  @moduledoc """
  An action that an agent can run: a module with `run/2`.

  An action runs in a span of its own, in the context of its caller with the agent's and the
  action's name added. One that raises leaves the agent as it was.
  """

  alias Crew.Events
  alias Foundation.ErrorContext
  alias Foundation.Telemetry.Span

  @type memory :: map

  @doc "Does it. Answers with the memory that the agent is to have afterwards."
  @callback run(params :: map, memory) :: {:ok, answer :: term, memory} | {:error, term}

  @doc false
  @spec run(module, map, %{id: term, memory: memory}) :: {:ok, term, memory} | {:error, term}
  def run(action, params, agent) do
    about = %{agent: agent.id, action: action}
    started = System.monotonic_time()

    try do
      Span.with_span_fun(:action, about, fn ->
        ErrorContext.with_context(about, fn -> action.run(params, agent.memory) end)
      end)
    rescue
      exception ->
        # Once for each agent and action in a while, however often it fails.
        Events.emit_event(:failure, %{count: 1}, about)
        {:error, ErrorContext.enrich_error(exception)}
    after
      Events.batch_events(:action, %{duration: System.monotonic_time() - started}, about)
    end
  end
end
