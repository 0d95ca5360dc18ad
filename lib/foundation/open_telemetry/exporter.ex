if match?({:module, _}, Code.ensure_compiled(:opentelemetry)) do
  defmodule Foundation.OpenTelemetry.Exporter do
    @moduledoc false
    # Handles the events of spans.
    #
    # At its start a span becomes OpenTelemetry's current span in its process. The context that was
    # current before is kept in the new one, under @frame. A span that ends while it is current
    # restores that context. One that ends out of order, or in another process, only leaves the
    # table of open spans. When the spans inside it have ended, the contexts of ended ones are
    # skipped.
    #
    # The ids are those of the events, not OpenTelemetry's: see `Ids`.

    alias Foundation.OpenTelemetry.{Ids, Open, Value}
    alias Foundation.Telemetry.Span

    require Logger

    @frame {__MODULE__, :frame}

    @spec handle([atom], map, map, map) :: :ok
    def handle([_, _, event], measurements, metadata, config) do
      on(event, measurements, metadata, config)
      :ok
    catch
      # `:telemetry` would remove the handler for good. A span that cannot be exported is less.
      kind, reason ->
        Logger.warning(fn ->
          "Foundation.OpenTelemetry did not export a span: " <>
            Exception.format(kind, reason, __STACKTRACE__)
        end)

        :ok
    end

    defp on(:start, measurements, metadata, config) do
      # One that is too deep is not kept, and has no event at its end.
      with %{span_id: id} when id == metadata.span_id <- Span.propagate_context(),
           do: begin(measurements, metadata, config)
    end

    defp on(:dropped, _measurements, _metadata, _config) do
      for span <- Open.take_dead() do
        fail(span, "abandoned")
        :otel_span.end_span(span)
      end
    end

    defp on(event, measurements, metadata, config) do
      span =
        case Open.take(metadata.span_id) do
          {pid, span} ->
            if pid == self(), do: leave(metadata.span_id)
            later_links(span, metadata.links, measurements.monotonic_time)
            span

          # It was open before `setup/1`, or one of too many.
          nil ->
            begun = measurements.monotonic_time - measurements.duration
            metadata |> parent(:otel_ctx.new()) |> start(metadata, begun, config)
        end

      :otel_span.set_attributes(span, Value.attributes(metadata.attributes))
      events(span, metadata.events)
      status(event, span, metadata, measurements)
      :otel_span.end_span(span, measurements.monotonic_time)
    end

    defp begin(measurements, metadata, config) do
      outer = live(:otel_ctx.get_current())
      base = parent(metadata, outer)
      span = start(base, metadata, measurements.monotonic_time, config)

      if :otel_span.is_valid(span) and Open.put(metadata.span_id, span) do
        base
        |> :otel_tracer.set_current_span(span)
        |> :otel_ctx.set_value(@frame, {metadata.span_id, :otel_span.span_id(span), outer})
        |> :otel_ctx.attach()
      end
    end

    # The context with the parent as the current span.
    defp parent(%{parent_id: nil}, outer), do: outer

    defp parent(%{parent_id: parent_id} = metadata, outer) do
      case :otel_ctx.get_value(outer, @frame, nil) do
        # The current span is the parent, or one of OpenTelemetry's own inside it.
        {^parent_id, _number, _outer} -> outer
        _another -> elsewhere(Open.get(parent_id), metadata, outer)
      end
    end

    defp elsewhere(nil, metadata, outer), do: remote(metadata, outer)
    defp elsewhere(span, _metadata, outer), do: :otel_tracer.set_current_span(outer, span)

    defp remote(metadata, outer) do
      flags = Base.encode16(<<metadata.trace_flags>>, case: :lower)
      header = "00-#{metadata.trace_id}-#{metadata.parent_id}-#{flags}"
      state = for state <- List.wrap(Span.to_tracestate()), do: {"tracestate", state}
      carrier = [{"traceparent", header} | state]
      :otel_propagator_text_map.extract_to(outer, :otel_propagator_trace_context, carrier)
    end

    defp start(base, metadata, time, config) do
      links =
        for link <- metadata.links, do: {number(link.trace_id), number(link.span_id), [], []}

      options = %{
        start_time: time,
        attributes: Value.attributes(metadata.attributes),
        links: links
      }

      Ids.with_ids(number(metadata.trace_id), number(metadata.span_id), fn ->
        tracer = Ids.tracer(:opentelemetry.get_tracer(config.tracer))
        :otel_tracer.start_span(base, tracer, Value.name(metadata.name), options)
      end)
    end

    # Ends being the current one.
    defp leave(id) do
      context = :otel_ctx.get_current()

      case frame(context) do
        {^id, outer} -> :otel_ctx.attach(live(outer))
        _another -> :ok
      end
    end

    defp live(context) do
      with {id, outer} <- frame(context), nil <- Open.get(id) do
        live(outer)
      else
        _none_or_open -> context
      end
    end

    # The span that made a context, if that is still the current one in it.
    defp frame(context) do
      with {id, number, outer} <- :otel_ctx.get_value(context, @frame, nil),
           current when current != :undefined <- :otel_tracer.current_span_ctx(context),
           true <- :otel_span.span_id(current) == number do
        {id, outer}
      else
        _none -> nil
      end
    end

    defp events(_span, []), do: :ok

    defp events(span, events) do
      # OpenTelemetry's times are monotonic.
      offset = System.time_offset()

      :otel_span.add_events(
        span,
        for(
          event <- events,
          do: event(event.time - offset, Value.name(event.name), event.attributes)
        )
      )
    end

    defp later_links(_span, [], _time), do: :ok

    defp later_links(span, links, time) do
      :otel_span.add_events(span, for(link <- links, do: event(time, "link", link)))
    end

    defp event(time, name, attributes) do
      :opentelemetry.event(time, name, Value.attributes(attributes))
    end

    defp status(:exception, span, metadata, measurements) do
      %{kind: kind, reason: reason, stacktrace: stacktrace} = metadata
      {type, message} = Value.exception(kind, reason, stacktrace)

      attributes = %{
        "exception.type" => type,
        "exception.message" => message,
        "exception.stacktrace" => Exception.format_stacktrace(stacktrace)
      }

      event = :opentelemetry.event(measurements.monotonic_time, "exception", attributes)
      :otel_span.add_events(span, [event])
      fail(span, message)
    end

    defp status(_event, _span, %{status: :ok}, _measurements), do: :ok
    defp status(_event, span, %{status: :error}, _measurements), do: fail(span, "")

    defp status(_event, span, %{status: {:error, reason}}, _measurements),
      do: fail(span, Value.text(reason))

    defp status(:abandoned, span, _metadata, _measurements), do: fail(span, "abandoned")

    defp status(_event, span, %{status: status}, _measurements),
      do: :otel_span.set_attributes(span, Value.attributes(%{"foundation.status" => status}))

    defp fail(span, message), do: :otel_span.set_status(span, :error, message)

    defp number(hex), do: String.to_integer(hex, 16)
  end
end
