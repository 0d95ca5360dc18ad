defmodule Foundation.Telemetry.Span.Events do
  @moduledoc false
  # The telemetry events of a span's life.

  alias Foundation.Telemetry.Span.Frame

  @spec started(Frame.started(), term, map) :: :ok
  def started({span_id, parent_id, trace_id, flags, system, monotonic}, name, attributes) do
    :telemetry.execute(
      [:foundation, :span, :start],
      %{system_time: native(system), monotonic_time: native(monotonic)},
      %{
        name: name,
        span_id: span_id,
        parent_id: parent_id,
        trace_id: trace_id,
        trace_flags: flags,
        telemetry_span_context: span_id,
        attributes: attributes,
        status: :ok,
        events: [],
        links: []
      }
    )
  end

  @spec stopped(Frame.ended(), term) :: :ok
  def stopped(span, status) do
    :telemetry.execute([:foundation, :span, :stop], measurements(span), metadata(span, status))
  end

  @spec abandoned(Frame.ended()) :: :ok
  def abandoned(span) do
    :telemetry.execute(
      [:foundation, :span, :abandoned],
      measurements(span),
      metadata(span, :abandoned)
    )
  end

  @spec dropped(pos_integer) :: :ok
  def dropped(count), do: :telemetry.execute([:foundation, :span, :dropped], %{count: count}, %{})

  @spec failed(Frame.ended(), :error | :exit | :throw, term, list) :: :ok
  def failed(span, kind, reason, stacktrace) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}

    :telemetry.execute(
      [:foundation, :span, :exception],
      measurements(span),
      Map.merge(metadata(span, :error), failure)
    )
  end

  defp measurements({_, _, _, _, _, _, _, _, duration, ended_at}),
    do: %{duration: native(duration), monotonic_time: native(ended_at)}

  # Where Erlang's native unit is the nanosecond, which is nearly everywhere, there is
  # nothing to ask the VM for.
  if System.convert_time_unit(1_000_000_000, :nanosecond, :native) == 1_000_000_000 do
    defp native(nanoseconds), do: nanoseconds
  else
    defp native(nanoseconds), do: System.convert_time_unit(nanoseconds, :nanosecond, :native)
  end

  defp metadata(span, status) do
    {name, span_id, parent_id, trace_id, flags, attributes, events, links, _, _} = span

    %{
      name: name,
      span_id: span_id,
      parent_id: parent_id,
      trace_id: trace_id,
      trace_flags: flags,
      telemetry_span_context: span_id,
      attributes: attributes,
      status: status,
      events: events,
      links: links
    }
  end
end
