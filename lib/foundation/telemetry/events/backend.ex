defmodule Foundation.Telemetry.Events.Backend do
  @moduledoc false
  # The engine behind `Foundation.Telemetry.SampledEvents` and `Foundation.Telemetry.Sampler`.
  #
  # It counts decisions (emitted, suppressed, sampled out, dropped) and pending events. The number
  # of offered events is their sum, so the sum is right in every answer.

  alias Foundation.Telemetry
  alias Foundation.Telemetry.Events.{Backends, Settings}
  alias Foundation.Telemetry.Sampler.Strategy

  @type name :: [atom, ...]
  @type totals :: %{
          emitted: non_neg_integer,
          suppressed: non_neg_integer,
          sampled_out: non_neg_integer,
          dropped: non_neg_integer,
          pending: non_neg_integer
        }
  @type sampled :: %{
          sampled: non_neg_integer,
          sampled_out: non_neg_integer,
          strategy: Strategy.t()
        }

  @doc "Whether the tables exist, and let something in. O(1)."
  @callback exists?() :: boolean

  @doc "Makes the tables, or takes over what a crashed predecessor left. Called by their owner."
  @callback open(Settings.t()) :: :created | :adopted

  @doc """
  Stops accepting events: callers continue as without tables. The owner can still peek at pending
  events and acknowledge them.
  """
  @callback seal() :: :ok

  @doc "Destroys the tables."
  @callback close() :: :ok

  @doc """
  Decides one event: its window, then its strategy, atomically. `:emit` to exactly one caller
  a window. O(1); at the bound the oldest window is evicted.
  """
  @callback admit(name, key :: term, window :: non_neg_integer | nil) :: :emit | :ok

  @doc """
  Appends to the event's batch. `:first` when a batch begins with it, `:full` when it fills
  one: the batch processor is to be told. `:ok` also for an event that was dropped. `:alone` or
  `nil` when the tables have been sealed meanwhile, and the event is not in them. O(1).
  """
  @callback append(name, measurements :: map, metadata :: map) ::
              :ok | :first | :full | :alone | nil

  @doc "Counts a decision that a legacy backend made."
  @callback count(name, :emitted | :suppressed | :sampled_out) :: :ok

  @callback configure(name, keyword) :: :ok
  @callback settings(name) :: %{
              window: non_neg_integer,
              batch_size: pos_integer,
              batch_timeout: pos_integer
            }

  @callback totals(name) :: totals
  @doc "The totals of each event. O(events)."
  @callback totals() :: [{name, totals}]
  @doc "The windows that are kept, of all events, and how many were closed early. O(1)."
  @callback windows() :: %{windows: non_neg_integer, evicted: non_neg_integer}

  @doc "The same of one event. O(1) in the native engine, O(windows) in the ETS engine."
  @callback windows([atom]) :: %{windows: non_neg_integer, evicted: non_neg_integer}

  @doc "Closes what has expired, in bounded steps."
  @callback sweep() :: :ok

  @doc """
  Returns the oldest events of a batch, up to `limit`. They stay in the table until `ack/2` gets
  the token, so the successor of a processor that dies in between finds them. Only the batch
  processor calls these two.
  """
  @callback peek(name, limit :: pos_integer) ::
              {[{at :: integer, measurements :: map, metadata :: map}], token :: term}
  @callback ack(name, token :: term) :: :ok

  @callback configure_strategy(name :: term, Strategy.t()) :: :ok
  @callback sample?(name :: term) :: boolean
  @callback sampled(name :: term) :: sampled
  @callback sampled() :: [{name :: term, sampled}]
  @callback reset_sampled() :: :ok

  @backends [native: Backends.Native, ets: Backends.ETS]

  @doc "The backend whose tables exist, `nil` when there are none."
  @spec running() :: module | nil
  def running, do: Telemetry.Backend.running(@backends)

  @doc "The backend whose tables exist, or a raise that says what is missing."
  @spec running!() :: module
  def running!, do: Telemetry.Backend.running!(@backends)

  @doc "The backend of a table's engine."
  @spec of_engine(Foundation.Engine.t()) :: module
  def of_engine(engine), do: Keyword.fetch!(@backends, engine)

  @doc """
  Counts of nothing.
  """
  @spec zero() :: totals
  def zero, do: %{emitted: 0, suppressed: 0, sampled_out: 0, dropped: 0, pending: 0}
end
