defmodule Foundation.Telemetry.Span do
  @moduledoc """
  Spans: what a process is doing, since when, and as part of what.

      require Foundation.Telemetry.Span, as: Span

      Span.with_span :checkout, %{user: 7} do
        Span.record_event(:paid, %{amount: 100})
        ship(order)
      end

  Spans nest: the innermost open span of a process is the parent of the next. Nothing is kept in the
  process dictionary. With `start_span/2` and `end_span/1` a span can begin in one function and
  end in another.

  ## Across processes

      context = Span.propagate_context()
      Task.async(fn -> Span.with_propagated_context(context, fn -> work() end) end)

  And across services, in the headers of the W3C's Trace Context:

      headers = [{"traceparent", Span.to_traceparent()}, {"tracestate", Span.to_tracestate()}]

      with {:ok, context} <- Span.from_traceparent(traceparent, tracestate),
           do: Span.with_propagated_context(context, fn -> handle(request) end)

  Both functions return `nil` where there is nothing to send.

  ## Consistency

    * A process's spans are its own: only it starts, changes and ends them, and each call sees
      what the ones before it did.
    * Open spans are in a table that outlives the span process: spans start and end while that is
      away. In the native engine they also outlive the process that owns it.
    * A span whose process dies is ended with one `:abandoned` event, soon after the death and
      innermost first. When the span process is killed none is lost; one that it was just emitting
      is emitted again.
    * Trace ids are 128 bit, span ids 64 bit, random, and written in lower-case hex.

  ## Bounds

    * 10,000 open spans a process. One that is started past that has an id and a start event and
      is not kept.
    * 128 events and 128 links a span. The first are kept.
    * 100,000 abandoned spans that wait for a slow handler of `:abandoned`. Those of later deaths
      are dropped, and `:dropped` says how many.

  ## Telemetry events

  | event | measurements | metadata |
  |---|---|---|
  | `[:foundation, :span, :start]` | `:system_time`, `:monotonic_time` (native unit) | see below |
  | `[:foundation, :span, :stop]` | `:duration`, `:monotonic_time` (native unit) | see below |
  | `[:foundation, :span, :exception]` | `:duration`, `:monotonic_time` (native unit) | and `:kind`, `:reason`, `:stacktrace`; `status: :error` |
  | `[:foundation, :span, :abandoned]` | `:duration`, `:monotonic_time` (native unit) | see below; `status: :abandoned` |
  | `[:foundation, :span, :dropped]` | `:count`, abandoned spans that no event told of | `%{}` |

  Metadata:
  `%{name:, span_id:, parent_id:, trace_id:, trace_flags:, telemetry_span_context:, attributes:,
  status:, events:, links:}`. `:events` is a list of `%{name:, attributes:, time:}`, and `:links` a
  list of `%{trace_id:, span_id:}`.
  `parent_id` is `nil` for a root; an event's `time` is system time in native unit.

  As in `:telemetry.span/3`, `monotonic_time` is that of the event: the start plus the `duration` is
  the end, and an abandoned span ends when its process does. `telemetry_span_context` is the span's
  id, by which a handler finds the start of an end.
  """

  alias Foundation.{Callback, Native}
  alias Foundation.Telemetry.Span.{Context, Events, Router, Server}

  @type id :: String.t()
  @type context :: %{
          required(:trace_id) => String.t(),
          required(:span_id) => id,
          optional(:trace_flags) => 0..255,
          optional(:tracestate) => String.t() | nil,
          optional(term) => term
        }

  @doc false
  def child_spec(options), do: %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}}

  @doc false
  def start_link(_options), do: Server.start_link(name: __MODULE__)

  @doc """
  Runs the block inside a span and returns its value.

  The span ends with the block. When the block raises, throws or exits, the event is `:exception`
  instead of `:stop`, and the exception continues with its stacktrace. Spans that the block
  started by hand and did not end are then ended as abandoned. When the block returns, they stay
  open. **Cost:** a `start_span/2` and an `end_span/2`.

      iex> require Foundation.Telemetry.Span, as: Span
      iex> Span.with_span :sum, %{of: 2} do
      ...>   1 + 1
      ...> end
      2
  """
  @doc since: "0.1.0"
  defmacro with_span(name, attributes \\ Macro.escape(%{}), do: block) do
    quote do
      Foundation.Telemetry.Span.with_span_fun(unquote(name), unquote(attributes), fn ->
        unquote(block)
      end)
    end
  end

  @doc """
  Runs `fun` inside a span, like `with_span/3`, and returns its value.

      iex> Foundation.Telemetry.Span.with_span_fun(:sum, %{}, fn -> 1 + 1 end)
      2
  """
  @doc since: "0.1.0"
  @spec with_span_fun(term, map, (() -> result)) :: result when result: term
  def with_span_fun(name, attributes \\ %{}, fun)

  def with_span_fun(name, attributes, fun) when is_function(fun, 0) do
    {id, parent_id, _, _, _, _} = open(name, attributes)

    try do
      fun.()
    catch
      kind, reason ->
        stacktrace = __STACKTRACE__
        unwind([id, parent_id])

        # Not open any more if the block itself ended it.
        with span when is_tuple(span) <- finish(id),
             do: Events.failed(span, kind, reason, stacktrace)

        :erlang.raise(kind, reason, stacktrace)
    else
      value ->
        # Already ended by the block itself: nothing to do.
        _ = end_span(id)
        value
    end
  end

  def with_span_fun(_name, _attributes, other), do: Callback.refuse!(other, 0)

  # The exception skipped the end of spans that were started by hand inside this one. If they
  # stayed open, they would become the parents of every later span of this process.
  defp unwind(outer_ids) do
    with {:span, {_, id, _, _, _, _, _, _, _, _}, _tracestate} <- current(),
         false <- id in outer_ids,
         span when is_tuple(span) <- finish(id) do
      Events.abandoned(span)
      unwind(outer_ids)
    end
  end

  @doc """
  Opens a span inside the innermost open one and returns its id, 16 hex digits.

  **Cost:** O(size of name and attributes), in the caller. `name` is any term; raises
  `ArgumentError` for attributes that are no map.

      iex> id = Foundation.Telemetry.Span.start_span("import", %{file: "a.csv"})
      iex> byte_size(id)
      16
      iex> Foundation.Telemetry.Span.end_span(id)
      :ok
  """
  @doc since: "0.1.0"
  @spec start_span(term, map) :: id
  def start_span(name, attributes \\ %{})

  def start_span(name, attributes) do
    {id, _, _, _, _, _} = open(name, attributes)
    id
  end

  defp open(name, attributes) when is_map(attributes) do
    started = started(name, attributes)
    Events.started(started, name, attributes)
    started
  end

  defp open(_name, attributes), do: refuse!("attributes to be a map", attributes)

  # Nobody, if the flag has changed since it was asked who keeps spans.
  defp started(name, attributes) do
    Native.span_start(name, attributes) || Router.backend().start(name, attributes) ||
      started(name, attributes)
  end

  @doc """
  Ends the innermost span of this process, with status `:ok`.

  `{:error, :not_found}` when none is open. **Cost:** O(1).

      iex> Foundation.Telemetry.Span.end_span()
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec end_span() :: :ok | {:error, :not_found}
  def end_span, do: finish_with(nil, :ok)

  @doc """
  Ends a span of this process, with `status`, any term.

  Spans inside it stay open. `{:error, :not_found}` when it is not open, or not this process's.
  **Cost:** O(spans that are open inside it).

      iex> id = Foundation.Telemetry.Span.start_span(:import)
      iex> Foundation.Telemetry.Span.end_span(id, :cancelled)
      :ok
      iex> Foundation.Telemetry.Span.end_span(id)
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec end_span(id, status :: term) :: :ok | {:error, :not_found}
  def end_span(id, status \\ :ok)
  def end_span(id, status) when is_binary(id), do: finish_with(id, status)
  def end_span(_id, _status), do: {:error, :not_found}

  defp finish_with(id, status) do
    case finish(id) do
      :error -> {:error, :not_found}
      span -> Events.stopped(span, status)
    end
  end

  @doc false
  def finish(id) do
    case Native.span_finish(id) || Router.backend().finish(id) do
      span when is_tuple(span) -> span
      _none -> Router.left(& &1.finish(id), :error)
    end
  end

  @doc """
  Adds attributes to the innermost span: a map, which is merged into the ones it has.

  `:ok`, or `{:error, :not_found}` outside of a span. **Cost:** O(size of all its attributes), in
  the caller. Raises `ArgumentError` for what is no map.

      iex> Foundation.Telemetry.Span.with_span_fun(:import, %{file: "a.csv"}, fn ->
      ...>   Foundation.Telemetry.Span.add_attributes(%{rows: 120})
      ...>   Foundation.Telemetry.Span.current_span().attributes
      ...> end)
      %{file: "a.csv", rows: 120}
  """
  @doc since: "0.1.0"
  @spec add_attributes(map) :: :ok | {:error, :not_found}
  def add_attributes(attributes) when is_map(attributes), do: update({:attributes, attributes})
  def add_attributes(attributes), do: refuse!("attributes to be a map", attributes)

  @doc """
  Records that something happened in the innermost span, and when.

  `:ok`, also for one past the 128 that are kept, or `{:error, :not_found}` outside of a span.
  **Cost:** O(size of the attributes), in the caller. Raises `ArgumentError` for attributes that
  are no map.

      iex> Foundation.Telemetry.Span.record_event(:retry, %{attempt: 2})
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec record_event(term, map) :: :ok | {:error, :not_found}
  def record_event(name, attributes \\ %{})

  def record_event(name, attributes) when is_map(attributes) do
    update({:event, %{name: name, attributes: attributes, time: System.system_time()}})
  end

  def record_event(_name, attributes), do: refuse!("attributes to be a map", attributes)

  @doc """
  Links the innermost span to another, which is given by its context (see `propagate_context/0`).

  `:ok`, also for one past the 128 that are kept, or `{:error, :not_found}` outside of a span.
  **Cost:** O(1). Raises `ArgumentError` for what is no context.

      iex> alias Foundation.Telemetry.Span
      iex> batch = Span.with_span_fun(:batch, %{}, &Span.propagate_context/0)
      iex> Span.with_span_fun(:item, %{}, fn ->
      ...>   Span.link_span(batch)
      ...>   Span.current_span().links == [Map.take(batch, [:trace_id, :span_id])]
      ...> end)
      true
  """
  @doc since: "0.1.0"
  @spec link_span(context) :: :ok | {:error, :not_found}
  def link_span(context) do
    update({:link, context |> Context.validate!() |> Map.take([:trace_id, :span_id])})
  end

  defp update(change) do
    with none when none != :ok <- Router.backend().update(change),
         :error <- Router.left(& &1.update(change), :error) do
      {:error, :not_found}
    end
  end

  @doc """
  Returns the innermost span of this process, or `nil`. **Cost:** O(size of the span), in the
  caller.

  `%{span_id:, parent_id:, trace_id:, trace_flags:, name:, attributes:, events:, links:}`.
  Directly inside `with_propagated_context/2` it is the span of that context, of which nothing but
  its ids and flags is known: `name` is `nil`, and `remote: true` is there too.

      iex> Foundation.Telemetry.Span.current_span()
      nil
  """
  @doc since: "0.1.0"
  @spec current_span() :: map | nil
  def current_span do
    case current() do
      {:span, span, _tracestate} ->
        {name, span_id, parent_id, trace_id, flags, attributes, events, links, _, _} = span

        %{
          span_id: span_id,
          parent_id: parent_id,
          trace_id: trace_id,
          trace_flags: flags,
          name: name,
          attributes: attributes,
          events: events,
          links: links
        }

      {:remote, trace_id, span_id, flags, _tracestate} ->
        %{
          span_id: span_id,
          parent_id: nil,
          trace_id: trace_id,
          trace_flags: flags,
          name: nil,
          attributes: %{},
          events: [],
          links: [],
          remote: true
        }

      :none ->
        nil
    end
  end

  @doc """
  Returns the trace that this process works on, 32 hex digits, or `nil`. **Cost:** O(1).

      iex> Foundation.Telemetry.Span.current_trace_id()
      nil
  """
  @doc since: "0.1.0"
  @spec current_trace_id() :: String.t() | nil
  def current_trace_id, do: with(%{trace_id: trace_id} <- propagate_context(), do: trace_id)

  @doc """
  Returns the context with which another process continues this trace: `%{trace_id:, span_id:,
  trace_flags:}`, or `nil` outside a span. It is a plain map that any message can carry. It also has
  the `:tracestate` that the trace came with, if it came with one. **Cost:** O(1).

      iex> Foundation.Telemetry.Span.propagate_context()
      nil
  """
  @doc since: "0.1.0"
  @spec propagate_context() :: context | nil
  def propagate_context do
    case current() do
      {:span, {_, span_id, _, trace_id, flags, _, _, _, _, _}, tracestate} ->
        context(trace_id, span_id, flags, tracestate)

      {:remote, trace_id, span_id, flags, tracestate} ->
        context(trace_id, span_id, flags, tracestate)

      :none ->
        nil
    end
  end

  defp context(trace_id, span_id, flags, nil),
    do: %{trace_id: trace_id, span_id: span_id, trace_flags: flags}

  defp context(trace_id, span_id, flags, tracestate),
    do: %{trace_id: trace_id, span_id: span_id, trace_flags: flags, tracestate: tracestate}

  @doc """
  Runs `fun` and returns its value. Spans in it belong to the trace of `context`, with its span as
  parent.

  `context` comes from `propagate_context/0` or `from_traceparent/1`; with `nil` there is nothing
  to go on from, and `fun` just runs. Afterwards, also after a raise, this process is where it
  was; spans that `fun` left open are ended as abandoned. **Cost:** O(1) besides `fun`. Raises
  `ArgumentError` for what is no context.

  A `:tracestate` of the context is carried through unchanged: `propagate_context/0` and
  `to_tracestate/0` return it in `fun`. Of one with more than 512 bytes, whole members are dropped
  from the end. One with bytes that no header may have is ignored.

      iex> alias Foundation.Telemetry.Span
      iex> Span.with_span_fun(:parent, %{}, fn ->
      ...>   context = Span.propagate_context()
      ...>   task =
      ...>     Task.async(fn -> Span.with_propagated_context(context, &Span.current_trace_id/0) end)
      ...>
      ...>   Task.await(task) == Span.current_trace_id()
      ...> end)
      true
  """
  @doc since: "0.1.0"
  @spec with_propagated_context(context | nil, (() -> result)) :: result when result: term
  def with_propagated_context(nil, fun) when is_function(fun, 0), do: fun.()

  def with_propagated_context(context, fun) when is_function(fun, 0) do
    {backend, mark} = context |> Context.validate!() |> enter()

    try do
      fun.()
    after
      leave(backend, mark)
    end
  end

  def with_propagated_context(_context, other), do: Callback.refuse!(other, 0)

  @doc false
  def leave(backend, mark), do: backend |> Router.leave(mark) |> Enum.each(&Events.abandoned/1)

  @doc false
  def enter(context) do
    backend = Router.backend()

    case backend.enter(context) do
      # As in started/2.
      nil -> enter(context)
      mark -> {backend, mark}
    end
  end

  @doc """
  Returns the `traceparent` header that continues this trace elsewhere, or `nil`. **Cost:** O(1).

      iex> alias Foundation.Telemetry.Span
      iex> {:ok, context} =
      ...>   Span.from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
      iex> Span.with_propagated_context(context, &Span.to_traceparent/0)
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
  """
  @doc since: "0.1.0"
  @spec to_traceparent() :: String.t() | nil
  def to_traceparent do
    with %{} = context <- propagate_context(), do: Context.to_traceparent(context)
  end

  @doc """
  Returns the `tracestate` header that this trace came with, or `nil`. **Cost:** O(1).

      iex> alias Foundation.Telemetry.Span
      iex> {:ok, context} =
      ...>   Span.from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1")
      iex> Span.with_propagated_context(context, &Span.to_tracestate/0)
      "a=1"
  """
  @doc since: "0.1.0"
  @spec to_tracestate() :: String.t() | nil
  def to_tracestate, do: with(%{} = context <- propagate_context(), do: context[:tracestate])

  @doc """
  Parses a `traceparent` header into a context, which takes the `tracestate` header along.

  `{:ok, context}`, or `{:error, reason}` with `:invalid_format`, `:invalid_version`,
  `:invalid_trace_id`, `:invalid_span_id` or `:invalid_flags`: what the standard says is to be
  ignored. **Cost:** O(1): a tail is not looked at. Creates no atoms.

      iex> header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
      iex> {:ok, context} = Foundation.Telemetry.Span.from_traceparent(header)
      iex> context
      %{trace_id: "4bf92f3577b34da6a3ce929d0e0e4736", span_id: "00f067aa0ba902b7", trace_flags: 1}
      iex> Foundation.Telemetry.Span.from_traceparent("00-0-0-0")
      {:error, :invalid_format}
  """
  @doc since: "0.1.0"
  @spec from_traceparent(String.t(), tracestate :: String.t() | nil) ::
          {:ok, context} | {:error, atom}
  def from_traceparent(header, tracestate \\ nil) do
    with {:ok, context} <- Context.from_traceparent(header),
         do: {:ok, Context.put_tracestate(context, tracestate)}
  end

  defp current do
    case Native.span_current() || Router.backend().current() do
      none when none in [nil, :none] -> Router.left(& &1.current(), :none)
      current -> current
    end
  end

  @spec refuse!(String.t(), term) :: no_return
  defp refuse!(what, given) do
    raise ArgumentError, "expected #{what}, got: #{inspect(given)}"
  end
end
