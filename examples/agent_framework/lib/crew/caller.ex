defmodule Crew.Caller do
  @moduledoc false
  # The caller of another process: its context, and its span.

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
