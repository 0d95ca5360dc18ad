defmodule Foundation.Telemetry.Span.Frame do
  @moduledoc false
  # The elements of a process's stack of open spans, in the backends without native memory. An
  # element is a span, or a context from another process, which is a parent but no span.

  alias Foundation.Telemetry.Span.{Context, Ids}

  # As many as the OpenTelemetry specification's limits: the newest past it are not kept.
  @most_events 128
  @most_links 128

  # Recursion that opens a span a level must not take all memory. A deeper span is not kept.
  @deepest 10_000

  @type span :: %{
          span_id: String.t(),
          parent_id: String.t() | nil,
          trace_id: String.t(),
          trace_flags: 0..255,
          tracestate: String.t() | nil,
          name: term,
          attributes: map,
          events: [map],
          links: [map],
          started: integer,
          depth: pos_integer
        }
  @type remote ::
          {:remote,
           %{
             required(:trace_id) => String.t(),
             required(:span_id) => String.t(),
             required(:trace_flags) => 0..255,
             required(:depth) => pos_integer,
             optional(:tracestate) => String.t()
           }}
  @type t :: span | remote

  @typedoc """
  Returns the new parts of a started span. The times are in nanoseconds.
  """
  @type started ::
          {span_id :: String.t(), parent_id :: String.t() | nil, trace_id :: String.t(),
           flags :: 0..255, system_time :: integer, monotonic_time :: integer}

  @typedoc """
  A span as backends give it: the native engine's tuple. The times are in nanoseconds, and
  `ended_at` is monotonic.
  """
  @type ended ::
          {name :: term, span_id :: String.t(), parent_id :: String.t() | nil,
           trace_id :: String.t(), flags :: 0..255, attributes :: map, events :: [map],
           links :: [map], duration :: non_neg_integer, ended_at :: integer}
  @type view ::
          {:span, ended, tracestate :: String.t() | nil}
          | {:remote, trace_id :: String.t(), span_id :: String.t(), flags :: 0..255,
             tracestate :: String.t() | nil}
          | :none
  @type change :: {:attributes, map} | {:event, map} | {:link, map}

  @doc "A span inside a frame, or a root. Whether it is to be kept says `kept?/1`."
  @spec span(t | nil, term, map) :: span
  def span(parent, name, attributes) do
    {parent_id, trace_id, flags, tracestate, depth} = inherit(parent)

    %{
      span_id: Ids.new(8),
      parent_id: parent_id,
      trace_id: trace_id,
      trace_flags: flags,
      tracestate: tracestate,
      name: name,
      attributes: attributes,
      events: [],
      links: [],
      started: System.monotonic_time(:nanosecond),
      depth: depth
    }
  end

  defp inherit(nil), do: {nil, Ids.new(16), 1, nil, 1}
  defp inherit({:remote, context}), do: inherit(context)

  defp inherit(%{trace_id: trace_id, span_id: parent_id, trace_flags: flags} = parent),
    do: {parent_id, trace_id, flags, parent[:tracestate], parent.depth + 1}

  @spec kept?(span) :: boolean
  def kept?(%{depth: depth}), do: depth <= @deepest

  @doc "A context as a frame inside another."
  @spec remote(t | nil, Context.t()) :: remote
  def remote(parent, context) do
    {_parent_id, _trace_id, _flags, _tracestate, depth} = inherit(parent)
    {:remote, Map.put(context, :depth, depth)}
  end

  @doc "A span with a change."
  @spec change(span, change) :: span
  def change(span, {:attributes, new}), do: %{span | attributes: Map.merge(span.attributes, new)}
  def change(span, {:event, event}), do: append(span, :events, event, @most_events)
  def change(span, {:link, link}), do: append(span, :links, link, @most_links)

  defp append(span, key, item, most) do
    items = Map.fetch!(span, key)
    if length(items) < most, do: %{span | key => items ++ [item]}, else: span
  end

  @doc "A span as it was at a time in nanoseconds, by default now."
  @spec ended(span, integer) :: ended
  def ended(span, at \\ System.monotonic_time(:nanosecond)) do
    {span.name, span.span_id, span.parent_id, span.trace_id, span.trace_flags, span.attributes,
     span.events, span.links, at - span.started, at}
  end

  @doc "A span that is started now."
  @spec started(span) :: started
  def started(span) do
    system_time = span.started + System.time_offset(:nanosecond)

    {span.span_id, span.parent_id, span.trace_id, span.trace_flags, system_time, span.started}
  end

  @doc "A frame as it is now."
  @spec view(t | nil) :: view
  def view(nil), do: :none
  def view({:remote, c}), do: {:remote, c.trace_id, c.span_id, c.trace_flags, c[:tracestate]}
  def view(span), do: {:span, ended(span), span.tracestate}
end
