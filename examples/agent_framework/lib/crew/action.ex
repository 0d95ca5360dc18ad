defmodule Crew.Action do
  @moduledoc """
  An action that an agent can run: a module with `run/2`.

  An action runs in a span of its own, in the context of its caller with the agent's and the
  action's name added. One that raises leaves the agent as it was.
  """

  alias Crew.{Events, Memory}
  alias Foundation.ErrorContext
  alias Foundation.Telemetry.Span

  @doc """
  Does it, given what the agent has noted. Answers with the notes that the agent is to keep.

  It may be run again: if its agent is killed before they are kept, or if what it was given was
  outdated.
  """
  @callback run(params :: map, Memory.notes()) ::
              {:ok, answer :: term, Memory.notes()} | {:error, term}

  @doc false
  @spec run(module, map, Crew.id(), Memory.notes()) ::
          {:ok, term, Memory.notes()} | {:error, term}
  def run(action, params, id, notes) do
    about = %{agent: id, action: action}
    started = System.monotonic_time()

    try do
      Span.with_span_fun(:action, about, fn ->
        ErrorContext.with_context(about, fn -> action.run(params, notes) end)
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
