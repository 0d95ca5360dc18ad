defmodule Crew.Caller do
  @moduledoc false
  # Whoever asks another process for something, as far as it matters there: in which context,
  # and as part of which span.

  alias Foundation.ErrorContext
  alias Foundation.Telemetry.Span

  @opaque t :: {context :: map, span :: map | nil}

  @spec here() :: t
  def here, do: {ErrorContext.get_context(), Span.propagate_context()}

  @spec continue(t, (() -> result)) :: result when result: term
  def continue({context, span}, fun) do
    ErrorContext.with_temporary_context(context, fn ->
      Span.with_propagated_context(span, fun)
    end)
  end
end
