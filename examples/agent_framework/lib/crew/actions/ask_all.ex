defmodule Crew.Actions.AskAll do
  @moduledoc """
  Asks other agents what they have noted, all at once, and answers with what each said.

  Each is asked by a task, which takes the context and the span along.
  """
  @behaviour Crew.Action

  alias Crew.Actions.Recall
  alias Foundation.ErrorContext
  alias Foundation.Telemetry.Span

  @impl true
  def run(%{agents: ids, about: about}, _notes) do
    span = Span.propagate_context()

    answers =
      ids
      |> ErrorContext.async_stream(fn id ->
        Span.with_propagated_context(span, fn -> {id, Crew.run(id, Recall, %{about: about})} end)
      end)
      |> Map.new(fn {:ok, answer} -> answer end)

    {:ok, answers, %{}}
  end
end
