# For those who have Jido: it is an optional dependency.
if match?({:module, _}, Code.ensure_compiled(Jido.Observe.Tracer)) do
  defmodule Foundation.Jido.Tracer do
    @external_resource Path.join(__DIR__, "tracer.md")
    @moduledoc File.read!(Path.join(__DIR__, "tracer.md"))

    @behaviour Jido.Observe.Tracer

    alias Foundation.Telemetry.Span
    alias Foundation.Telemetry.Span.Handle

    @doc """
    Starts a span, and returns what ends it.

    **Cost:** O(size of the metadata), and in a task without a span O(size of its dictionary).

        iex> span = Foundation.Jido.Tracer.span_start([:jido, :agent, :cmd], %{agent_id: "1"})
        iex> Foundation.Jido.Tracer.span_stop(span, %{duration: 1_000, tokens: 12})
        :ok
    """
    @doc since: "0.1.0"
    @impl true
    @spec span_start([atom], map) :: term
    def span_start(event_prefix, metadata), do: Handle.start(event_prefix, metadata)

    @doc """
    Ends a span. Returns `:ok`, also for one that has ended before. **Cost:** O(size of the span).

        iex> span = Foundation.Jido.Tracer.span_start([:jido, :agent, :cmd], %{})
        iex> Task.await(Task.async(fn -> Foundation.Jido.Tracer.span_stop(span, %{}) end))
        :ok
    """
    @doc since: "0.1.0"
    @impl true
    @spec span_stop(term, map) :: :ok
    def span_stop(%Handle{} = span, measurements) do
      Handle.stop(span, Map.delete(measurements, :duration))
    end

    # Jido's own fallback, when a start has failed.
    def span_stop(_none, _measurements), do: :ok

    @doc """
    Ends a span with an exception. Returns `:ok`, also for one that has ended before. **Cost:**
    O(size of the span).

        iex> span = Foundation.Jido.Tracer.span_start([:jido, :agent, :cmd], %{})
        iex> Foundation.Jido.Tracer.span_exception(span, :error, %RuntimeError{message: "no"}, [])
        :ok
    """
    @doc since: "0.1.0"
    @impl true
    @spec span_exception(term, atom, term, list) :: :ok
    def span_exception(%Handle{} = span, kind, reason, stacktrace) do
      Handle.fail(span, kind, reason, stacktrace)
    end

    def span_exception(_none, _kind, _reason, _stacktrace), do: :ok

    @doc """
    Runs `fun` in a span and returns its value.

    An exception goes on with its stacktrace. **Cost:** that of `span_start/2` and `span_stop/2`.

        iex> Foundation.Jido.Tracer.with_span_scope([:jido, :agent, :cmd], %{}, fn -> 1 + 1 end)
        2
    """
    @doc since: "0.1.0"
    @impl true
    @spec with_span_scope([atom], map, (() -> result)) :: result when result: term
    def with_span_scope(event_prefix, metadata, fun) do
      Span.with_propagated_context(Handle.inherited(), fn ->
        Span.with_span_fun(event_prefix, metadata, fun)
      end)
    end
  end
else
  defmodule Foundation.Jido.Tracer do
    @external_resource Path.join(__DIR__, "tracer.md")
    @moduledoc File.read!(Path.join(__DIR__, "tracer.md"))

    require Foundation.Optional

    Foundation.Optional.stubs(
      [span_start: 2, span_stop: 2, span_exception: 4, with_span_scope: 3],
      "jido",
      "~> 2.0"
    )
  end
end
