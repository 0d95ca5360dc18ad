defmodule Foundation.Telemetry.Span.Backends.Native do
  @moduledoc false
  # Stacks in native memory (`native/foundation_core/src/span.rs`), which the events' tables open
  # and close. In a process that exits the VM runs a callback, which abandons its spans at once.
  # The notification of the span process is edge-triggered.

  @behaviour Foundation.Telemetry.Span.Backend

  alias Foundation.Native

  @retry_ms 1_000

  @impl true
  def exists?, do: Native.telemetry_started() == true

  @impl true
  def open, do: :created

  @impl true
  def close, do: :ok

  @impl true
  def start(name, attributes), do: Native.span_start(name, attributes)

  @impl true
  def finish(id), do: Native.span_finish(id)

  @impl true
  def current, do: Native.span_current()

  @impl true
  def finish_of(pid, id), do: Native.span_finish_of(pid, id)

  @impl true
  def current_of(pid), do: Native.span_current_of(pid)

  # Only the process itself changes its spans, so nothing comes between reading and writing.
  @impl true
  def update({:attributes, attributes}) do
    case Native.span_current() do
      {:span, span, _tracestate} ->
        span |> elem(5) |> Map.merge(attributes) |> Native.span_put_attributes()

      _none ->
        :error
    end
  end

  def update({:event, event}), do: Native.span_add_event(event)
  def update({:link, link}), do: Native.span_add_link(link)

  @impl true
  def enter(%{trace_id: trace_id, span_id: span_id, trace_flags: flags} = context),
    do: Native.span_enter(trace_id, span_id, flags, context[:tracestate])

  @impl true
  def leave(mark) do
    case Native.span_leave(mark) do
      {spans, true} -> spans
      {spans, false} -> spans ++ leave(mark)
      # The tables have ended meanwhile, and the frames with them.
      nil -> []
    end
  end

  @impl true
  def watch, do: Native.span_watch(self())

  @impl true
  def abandoned(message) when message in [:abandoned, {:foundation_spans, :abandoned}] do
    case Native.span_abandoned() do
      {spans, all?, dropped} ->
        {for(span <- spans, do: {span, elem(span, 1)}), if(all?, do: :done, else: :more), dropped}

      nil ->
        # The library is absent, as between two loads of its module. Its notification has been
        # consumed, and it sends no other until this process has looked: so look again later.
        Process.send_after(self(), :abandoned, @retry_ms)
        {[], :done, 0}
    end
  end

  def abandoned(_message), do: :ignored

  @impl true
  def forget(id) do
    # Gone already is what was wanted.
    _ = Native.span_forget(id)
    :ok
  end
end
