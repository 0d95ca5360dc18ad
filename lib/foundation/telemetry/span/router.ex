defmodule Foundation.Telemetry.Span.Router do
  @moduledoc false
  # Chooses the backend that keeps a process's spans: the engine that runs or, in an application
  # that is being migrated, the process dictionary. After the flag changes, a process moves to the
  # other backend once it has no open span in the first. Until then, a span that the first backend
  # does not have is looked up in the other.

  alias Foundation.Legacy
  alias Foundation.Telemetry.Span.{Backends, Context, Frame}

  @spec backend() :: module
  def backend do
    engine = engine()

    cond do
      not Legacy.Telemetry.on?() -> engine
      engine.current() in [nil, :none] -> Legacy.Spans
      true -> engine
    end
  end

  @doc """
  Returns the result of `fun` for the spans that were started while the flag was off, or `none`.
  """
  @spec left((module -> found), none) :: found | none when found: term, none: term
  def left(fun, none) do
    if Legacy.Telemetry.ever?(), do: fun.(Legacy.Spans), else: none
  end

  @doc """
  Leaves a context in the backend where it was entered: the spans that were left open in it.

  One that was entered in the process dictionary was entered with no span open in the engine:
  all that are open there now were started since.
  """
  @spec leave(module, mark :: term) :: [Frame.ended()]
  def leave(Legacy.Spans = backend, mark) do
    open(engine()) ++ backend.leave(mark)
  end

  def leave(backend, mark), do: backend.leave(mark)

  @doc """
  Closes a span of another process of this node; `:error` if it is not open there. The process
  dictionary of another process is out of reach.
  """
  @spec finish_of(pid, String.t()) :: Frame.ended() | :error
  def finish_of(pid, id) do
    if node(pid) == node(), do: engine().finish_of(pid, id) || :error, else: :error
  end

  @doc "Returns the context of another process of this node, or `nil`."
  @spec context_of(pid) :: Context.t() | nil
  def context_of(pid) do
    with true <- node(pid) == node(),
         {:remote, trace_id, span_id, flags, tracestate} <- engine().current_of(pid) do
      context = %{trace_id: trace_id, span_id: span_id, trace_flags: flags}
      if tracestate, do: Map.put(context, :tracestate, tracestate), else: context
    else
      _none -> nil
    end
  end

  defp open(engine) do
    case engine.finish(nil) do
      span when is_tuple(span) -> [span | open(engine)]
      _none -> []
    end
  end

  defp engine, do: if(Backends.Native.exists?(), do: Backends.Native, else: Backends.ETS)
end
