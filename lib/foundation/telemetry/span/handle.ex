defmodule Foundation.Telemetry.Span.Handle do
  @moduledoc false
  # A span that is ended by its handle, and may be ended by another process than the one that
  # started it. In a process without a span, as in a task, it belongs to the span of the nearest
  # caller.

  alias Foundation.Callers
  alias Foundation.Telemetry.Span
  alias Foundation.Telemetry.Span.{Context, Events, Router}

  @enforce_keys [:id, :pid, :entered]
  defstruct @enforce_keys

  @opaque t :: %__MODULE__{id: Span.id(), pid: pid, entered: {module, mark :: term} | nil}

  @doc "Starts a span in the calling process."
  @spec start(term, map) :: t
  def start(name, attributes) do
    entered = with %{} = context <- inherited(), do: Span.enter(context)
    %__MODULE__{id: Span.start_span(name, attributes), pid: self(), entered: entered}
  end

  @doc "Ends the span with more attributes."
  @spec stop(t, map) :: :ok
  def stop(%__MODULE__{} = handle, attributes) do
    finish(handle, &(&1 |> merge(attributes) |> Events.stopped(:ok)))
  end

  @doc "Ends the span with a failure."
  @spec fail(t, :error | :exit | :throw, term, list) :: :ok
  def fail(%__MODULE__{} = handle, kind, reason, stacktrace) do
    finish(handle, &Events.failed(&1, kind, reason, stacktrace))
  end

  @doc """
  Returns the context of the nearest caller that has one, or `nil` if this process has a span of its
  own. Dead processes and processes of other nodes are skipped.
  """
  @spec inherited() :: Context.t() | nil
  def inherited do
    if Span.propagate_context() == nil, do: Enum.find_value(Callers.list(), &Router.context_of/1)
  end

  # A span that ended before, or with its process, is not open.
  defp finish(%__MODULE__{pid: pid} = handle, tell) when pid == self() do
    with span when is_tuple(span) <- Span.finish(handle.id), do: tell.(span)
    with {backend, mark} <- handle.entered, do: Span.leave(backend, mark)
    :ok
  end

  defp finish(%__MODULE__{} = handle, tell) do
    with span when is_tuple(span) <- Router.finish_of(handle.pid, handle.id), do: tell.(span)
    :ok
  end

  defp merge(span, attributes) do
    put_elem(span, 5, Map.merge(elem(span, 5), attributes))
  end
end
