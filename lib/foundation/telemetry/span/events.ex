defmodule Foundation.Telemetry.Span.Events do
  @moduledoc false
  # The telemetry events of a span's life.

  @spec started({String.t(), String.t() | nil, String.t()}, term, map) :: :ok
  def started({span_id, parent_id, trace_id}, name, attributes) do
    :telemetry.execute(
      [:foundation, :span, :start],
      %{system_time: System.system_time()},
      %{
        name: name,
        span_id: span_id,
        parent_id: parent_id,
        trace_id: trace_id,
        attributes: attributes,
        status: :ok,
        events: [],
        links: []
      }
    )
  end

  @spec stopped(map, integer, term) :: :ok
  def stopped(span, duration, status) do
    :telemetry.execute(
      [:foundation, :span, :stop],
      %{duration: duration},
      metadata(span, status)
    )
  end

  @spec abandoned(map, integer) :: :ok
  def abandoned(span, duration) do
    :telemetry.execute(
      [:foundation, :span, :abandoned],
      %{duration: duration},
      metadata(span, :abandoned)
    )
  end

  @spec failed(map, integer, :error | :exit | :throw, term, list) :: :ok
  def failed(span, duration, kind, reason, stacktrace) do
    failure = %{kind: kind, reason: reason, stacktrace: stacktrace}

    :telemetry.execute(
      [:foundation, :span, :exception],
      %{duration: duration},
      Map.merge(metadata(span, :error), failure)
    )
  end

  defp metadata(span, status) do
    %{
      name: span.name,
      span_id: span.span_id,
      parent_id: span.parent_id,
      trace_id: span.trace_id,
      attributes: span.attributes,
      status: status,
      events: span.events,
      links: span.links
    }
  end
end
