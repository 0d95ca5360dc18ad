# A stand-in for the API and the SDK of OpenTelemetry, with the functions that
# `Foundation.OpenTelemetry` calls. An ended span is sent to the process that is registered as
# `:otel_exporter`, as a map. A context is a map, in the process dictionary as there.
unless Code.ensure_loaded?(:opentelemetry) do
  defmodule :otel_ids do
    @moduledoc false
    def generate_trace_id, do: System.unique_integer([:positive])
    def generate_span_id, do: System.unique_integer([:positive])
  end

  defmodule :opentelemetry do
    @moduledoc false
    def get_tracer(name), do: {:otel_tracer_default, {:tracer, name, :otel_ids}}

    def event(time, name, attributes),
      do: %{system_time_native: time, name: name, attributes: attributes}
  end

  defmodule :otel_ctx do
    @moduledoc false
    def new, do: %{}
    def get_current, do: Process.get(:otel_ctx, %{})
    def attach(context), do: Process.put(:otel_ctx, context)
    def set_value(context, key, value), do: Map.put(context, key, value)
    def get_value(key), do: Map.get(get_current(), key, :undefined)
    def get_value(context, key, default), do: Map.get(context, key, default)
  end

  defmodule :otel_tracer do
    @moduledoc false
    def current_span_ctx(context), do: :otel_ctx.get_value(context, :span, :undefined)
    def set_current_span(context, span), do: :otel_ctx.set_value(context, :span, span)

    def start_span(context, {:otel_tracer_default, {:tracer, scope, ids}}, name, options) do
      span_id = ids.generate_span_id()

      {trace_id, parent_id, sampled} =
        case current_span_ctx(context) do
          :undefined -> {ids.generate_trace_id(), nil, true}
          parent -> {parent.trace_id, parent.span_id, parent.sampled}
        end

      span = %{trace_id: trace_id, span_id: span_id, parent_id: parent_id, sampled: sampled}
      fields = Map.merge(%{name: name, scope: scope, events: [], status: nil}, options)
      :ets.insert(:otel_span_table, {span_id, Map.merge(span, fields)})
      span
    end

    def with_span(tracer, name, fun) do
      context = :otel_ctx.get_current()
      span = start_span(context, tracer, name, %{attributes: %{}})
      :otel_ctx.attach(set_current_span(context, span))

      try do
        fun.(span)
      after
        :otel_span.end_span(span)
        :otel_ctx.attach(context)
      end
    end
  end

  defmodule :otel_span do
    @moduledoc false
    def span_id(span), do: span.span_id
    def is_valid(span), do: span.span_id != 0
    def set_attributes(span, new), do: update(span, :attributes, &Map.merge(&1, new))
    def add_events(span, new), do: update(span, :events, &(&1 ++ new))
    def set_status(span, code, message), do: update(span, :status, fn _ -> {code, message} end)

    def end_span(span, time \\ System.monotonic_time()) do
      for {_id, span} <- :ets.take(:otel_span_table, span.span_id),
          span.sampled,
          do: send(:otel_exporter, {:exported, Map.put(span, :end_time, time)})

      span
    end

    defp update(span, key, fun) do
      for {id, span} <- :ets.lookup(:otel_span_table, span.span_id),
          do: :ets.insert(:otel_span_table, {id, Map.update!(span, key, fun)})

      true
    end
  end

  defmodule :otel_propagator_text_map do
    @moduledoc false
    def extract_to(context, :otel_propagator_trace_context, [{"traceparent", header} | rest]) do
      ["00", trace_id, span_id, flags] = String.split(header, "-")

      :otel_tracer.set_current_span(context, %{
        trace_id: String.to_integer(trace_id, 16),
        span_id: String.to_integer(span_id, 16),
        sampled: flags == "01",
        state: rest
      })
    end
  end
end
