defmodule Foundation.Telemetry.SampledEvents do
  @moduledoc """
  Telemetry events that are deduplicated, sampled and batched, and whose every fate is counted.

      # Once a second for each user, however often it happens:
      SampledEvents.emit_event([:app, :login, :failed], %{count: 1}, %{user: id}, dedup_key: id)

      # One event for a hundred:
      SampledEvents.emit_batched([:app, :query], %{duration: 1_234}, %{source: "users"})

  A module of an application's own events:

      defmodule MyApp.Events do
        use Foundation.Telemetry.SampledEvents, prefix: [:my_app]
      end

  See `__using__/1` for what it gets.

  ## What becomes of an event

  `emit_event/4` asks the event's *window* first: the first event of a name and key opens one,
  and its repeats are suppressed until it has lasted its time. Then the event's *strategy*,
  where `Foundation.Telemetry.Sampler` has one for its name: suppressed repeats use up no rate.
  `emit_batched/3` asks the strategy, and then whether there is room.

  Each event is counted as exactly one of these (`stats/0`):

    * `:emitted` - passed to `:telemetry.execute/3`; of a batch, once its handlers have returned
    * `:suppressed` - a repeat within its window
    * `:sampled_out` - not chosen by its strategy
    * `:dropped` - a batched event for which there was no room
    * `:pending` - in a batch that has not been emitted

  ## Settings and bounds

      config :foundation, Foundation.Telemetry.SampledEvents,
        window: 1_000,
        max_windows: 100_000

  #{Foundation.Telemetry.Events.Settings.docs()}

  `configure_event/2` gives one event a `:window`, `:batch_size` or `:batch_timeout` of its own.
  The settings are read at the start of the application.

  A dedup key of up to 256 bytes (in the engine's encoding) is kept in full, and a longer one as a
  128-bit digest. The bound on windows therefore also bounds their memory. A name has at most 32
  atoms. Beyond 10,000 names of events the native engine counts and batches the rest under the one
  name `[:foundation, :other_events]`.

  ## Consistency

    * Everything here runs in the calling process, on tables that all processes share. When
      callers race for a window, exactly one emits.
    * A window is measured in monotonic time, from its first event. Repeats do not extend it.
    * `stats/0` reads each count at a moment of its own. It adds up the outcomes, so `offered ==
      emitted + suppressed + sampled_out + dropped + pending` in every answer.
    * The events of one process are in their order within a batch and from batch to batch.
    * Batches are emitted by one process. A handler that blocks delays the batches behind it, up
      to the bound on what is pending, and no caller.
    * When that process is killed nothing is lost: the tables outlive it, and callers go on using
      them. A batch that was being emitted is emitted again by its successor (at least once) and
      counted once. An orderly stop emits what is pending first.
    * In the ETS engine a decision and its count are two steps: a caller that is killed in between
      leaves its event uncounted. In the native engine they are one.
    * In the native engine the tables also outlive the process that owns them. In the ETS engine
      they do not, and until they are back events are passed on as they come, uncounted.

  ## Telemetry events

  | event | measurements | metadata |
  |---|---|---|
  | the name given to `emit_event/4` | as given | as given |
  | `[:batched \\| name]` | `:count` (events), `:sum`, `:min`, `:max` (maps from each measurement that is a number, in its own unit) | `:events` (`[%{measurements:, metadata:}]`, oldest first), `:first_at`, `:last_at` (system time, native unit) |
  """

  alias Foundation.{Native, Options}
  alias Foundation.Telemetry.Events.{Backend, BatchProcessor, Router, Settings}

  @type name :: [atom, ...]
  @type stats :: %{
          offered: non_neg_integer,
          emitted: non_neg_integer,
          suppressed: non_neg_integer,
          sampled_out: non_neg_integer,
          dropped: non_neg_integer,
          pending: non_neg_integer,
          windows: non_neg_integer,
          evicted: non_neg_integer
        }

  @doc false
  def child_spec(options) do
    # A worker's five seconds are short for a large backlog of batches and slow handlers.
    %{id: __MODULE__, start: {__MODULE__, :start_link, [options]}, shutdown: 30_000}
  end

  @doc false
  def start_link(_options), do: BatchProcessor.start_link(name: __MODULE__)

  @doc """
  Defines functions for the events below a prefix, in the module that uses this one.

  With `prefix: p`:

    * `emit_start(op, metadata)` - emits `p ++ [op, :start]` with
      `%{system_time:, monotonic_time:}` (native units)
    * `emit_stop(op, measurements, metadata)` - emits `p ++ [op, :stop]`
    * `emit_event(op, measurements, metadata)` - `emit_event/4` of `p ++ [op]`
    * `emit_if(condition, op, measurements, metadata)` - the same when `condition` is neither
      `false` nor `nil`
    * `emit_once_per(op, window, measurements, metadata)` - the same with its own window, in
      milliseconds
    * `batch_events(op, measurements, metadata)` - `emit_batched/3` of `p ++ [op]`
    * `span(op, metadata, do: block)` - a macro: `:telemetry.span/3` of `p ++ [op]` around the
      block, whose value it returns

  All but `span` return `:ok`. Starts and stops are neither deduplicated nor counted: each belongs
  to one operation. Costs and errors are those of the functions named.

      iex> defmodule Docs.Events do
      ...>   use Foundation.Telemetry.SampledEvents, prefix: [:doc]
      ...> end
      iex> Docs.Events.emit_event(:login, %{count: 1}, %{user: 7})
      :ok
      iex> Docs.Events.emit_if(false, :login, %{count: 1}, %{user: 8})
      :ok
  """
  @doc since: "0.1.0"
  defmacro __using__(options) do
    quote do
      require Foundation.Telemetry.Events.Emitter
      Foundation.Telemetry.Events.Emitter.define(unquote(options))
    end
  end

  @doc """
  Emits an event unless it is a repeat within its window, or its strategy decides against it.

  Always returns `:ok`. Two events are repeats if they have the same name and key. The key is
  `opts[:dedup_key]`, or else `metadata[:dedup_key]`, or else the whole metadata. `opts[:window]`,
  in milliseconds or `:infinity`, is the length of the window that this event opens.

  **Cost:** O(size of the key), in the caller, plus the event's handlers. Raises `ArgumentError`
  for a name that is not a list of atoms, an unknown option, or a window that is out of range.

      iex> Foundation.Telemetry.SampledEvents.emit_event([:doc, :event], %{count: 1}, %{id: 7})
      :ok
  """
  @doc since: "0.1.0"
  @spec emit_event(name, map, map, keyword) :: :ok
  def emit_event(name, measurements, metadata, opts \\ [])

  def emit_event([_ | _] = name, measurements, metadata, opts)
      when is_map(measurements) and is_map(metadata) and is_list(opts) do
    case options(opts) do
      {nil, window} -> admit(name, measurements, metadata, dedup_key(metadata), window)
      {key, window} -> admit(name, measurements, metadata, key, window)
    end
  end

  def emit_event(name, measurements, metadata, opts),
    do: refuse!(name, measurements, metadata, opts)

  defguardp is_window(window) when is_integer(window) and window in 0..0xFFFF_FFFF

  # The key and the window. Clients write the options like this; a search through the list costs
  # more than the native call.
  defp options([]), do: {nil, nil}
  defp options(dedup_key: key) when key != nil, do: {key, nil}
  defp options(window: window) when is_window(window), do: {nil, window}

  defp options(dedup_key: key, window: window)
       when key != nil and is_window(window),
       do: {key, window}

  defp options(window: window, dedup_key: key)
       when key != nil and is_window(window),
       do: {key, window}

  @options [dedup_key: [type: :any, default: nil], window: [type: :any, default: nil]]

  defp options(opts) do
    opts = Options.validate!(opts, @options, "the options of emit_event/4")
    {opts[:dedup_key], if(opts[:window] != nil, do: Settings.window!(opts[:window]))}
  end

  defp dedup_key(%{dedup_key: key}) when key != nil, do: key
  defp dedup_key(metadata), do: metadata

  defp admit(name, measurements, metadata, key, window) do
    case Native.telemetry_admit(name, key, window) do
      :emit -> :telemetry.execute(name, measurements, metadata)
      :ok -> :ok
      nil -> Router.emit_event(name, measurements, metadata, key, window)
    end
  end

  @doc """
  Appends an event to the batch of its name.

  The batch is emitted as `[:batched | name]` when it is full or has waited for its timeout.
  Returns `:ok`, also when the event was sampled out, or dropped because there is no room.

  **Cost:** O(size of the event), in the caller. Raises `ArgumentError` for a name that is not a
  list of atoms.

      iex> Foundation.Telemetry.SampledEvents.emit_batched([:doc, :batch], %{bytes: 10}, %{})
      :ok
      iex> Foundation.Telemetry.SampledEvents.flush([:doc, :batch])
      :ok
  """
  @doc since: "0.1.0"
  @spec emit_batched(name, map, map) :: :ok
  def emit_batched([_ | _] = name, measurements, metadata)
      when is_map(measurements) and is_map(metadata) do
    case Native.telemetry_append(name, measurements, metadata) do
      :ok -> :ok
      nil -> Router.emit_batched(__MODULE__, name, measurements, metadata)
      first_or_full -> BatchProcessor.tell(__MODULE__, name, first_or_full)
    end
  end

  def emit_batched(name, measurements, metadata), do: refuse!(name, measurements, metadata, [])

  @doc """
  Emits what was pending in all batches when it was called, and returns `:ok` after that.

  Takes as long as the handlers do, and outlasts a crash of the batch processor; exits when that
  has not been running for five seconds. Called by a handler of a batch it returns at once, and
  what is pending is emitted after that batch.

      iex> Foundation.Telemetry.SampledEvents.flush()
      :ok
  """
  @doc since: "0.1.0"
  @spec flush() :: :ok
  def flush, do: BatchProcessor.flush(__MODULE__, :all)

  @doc """
  Emits the pending batch of one event, like `flush/0`. Raises `ArgumentError` for a name that is
  not a list of atoms.

      iex> Foundation.Telemetry.SampledEvents.flush([:doc, :query])
      :ok
  """
  @doc since: "0.1.0"
  @spec flush(name) :: :ok
  def flush(name), do: BatchProcessor.flush(__MODULE__, Router.name!(name))

  @doc """
  Returns the counts of all events since the application was started: a map of

    * `:offered` - events passed to `emit_event/4` and `emit_batched/3`, the sum of the next five
    * `:emitted`, `:suppressed`, `:sampled_out`, `:dropped`, `:pending` - see above
    * `:windows` - windows kept; expired ones are closed within about a second
    * `:evicted` - windows that were closed early, at the bound

  O(names of events), in the caller. Raises `RuntimeError` when the application was never started.

      iex> counts = Foundation.Telemetry.SampledEvents.stats()
      iex> outcomes = [:emitted, :suppressed, :sampled_out, :dropped, :pending]
      iex> counts.offered == outcomes |> Enum.map(&counts[&1]) |> Enum.sum()
      true
  """
  @doc since: "0.1.0"
  @spec stats() :: stats
  def stats do
    backend = Backend.running!()

    backend.totals()
    |> Enum.reduce(Backend.zero(), fn {_name, totals}, sum ->
      Map.merge(sum, totals, fn _outcome, a, b -> a + b end)
    end)
    |> complete(backend.windows())
  end

  @doc """
  Returns the counts of one event, in the form of `stats/0`.

  **Cost:** O(1), in the caller; O(windows) in the ETS engine. Raises `ArgumentError` for a name
  that is not a list of atoms.

      iex> Foundation.Telemetry.SampledEvents.stats([:doc, :never_emitted]).offered
      0
  """
  @doc since: "0.1.0"
  @spec stats(name) :: stats
  def stats(name) do
    backend = Backend.running!()
    name |> Router.name!() |> backend.totals() |> complete(backend.windows(name))
  end

  defp complete(totals, windows) do
    offered = totals |> Map.values() |> Enum.sum()
    totals |> Map.put(:offered, offered) |> Map.merge(windows)
  end

  @doc """
  Gives one event settings of its own: `:window`, `:batch_size`, `:batch_timeout`.

  Those that are not named stay. They hold until the application stops: `:window` for windows that
  open from now on, the others also for what is pending, whose timeout begins anew. Returns `:ok`;
  O(1). Raises `ArgumentError` for what is not such a setting.

      iex> Foundation.Telemetry.SampledEvents.configure_event([:doc, :slow], window: 60_000)
      :ok
  """
  @doc since: "0.1.0"
  @spec configure_event(name, keyword) :: :ok
  def configure_event(name, options) do
    own = Settings.event!(options)
    Backend.running!().configure(Router.name!(name), own)

    if own[:batch_size] || own[:batch_timeout],
      do: BatchProcessor.tell(__MODULE__, name, :changed),
      else: :ok
  end

  @spec refuse!(term, term, term, term) :: no_return
  defp refuse!(name, measurements, metadata, opts) do
    Router.name!(name)

    {what, kind, given} =
      cond do
        not is_map(measurements) -> {"measurements", "a map", measurements}
        not is_map(metadata) -> {"metadata", "a map", metadata}
        true -> {"the options of emit_event/4", "a keyword list", opts}
      end

    raise ArgumentError, "expected #{what} to be #{kind}, got: #{inspect(given)}"
  end
end
