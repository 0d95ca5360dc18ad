defmodule Foundation.Telemetry.Events.Settings do
  @moduledoc false
  # The bounds and defaults of `Foundation.Telemetry.SampledEvents`: one schema, from which
  # the check, the configuration and the documentation come.

  alias Foundation.{Config, Options}

  # Stands for `:infinity` in the tables: 30 years, which fit into 64 bits as nanoseconds.
  @never 1_000_000_000_000
  @largest 0xFFFF_FFFF

  @schema [
    window: [
      type: Options.time(0),
      default: 1_000,
      doc: "For how many milliseconds the first of equal events suppresses the others."
    ],
    max_windows: [
      type: {:integer, 1..@largest},
      default: 100_000,
      doc: "How many windows are kept at once, over all events; then the oldest goes."
    ],
    max_pending: [
      type: {:integer, 1..@largest},
      default: 100_000,
      doc: "How many batched events wait at once, over all events; then the newest is dropped."
    ],
    batch_size: [
      type: {:integer, 1..@largest},
      default: 100,
      doc: "How many events a batch holds at most."
    ],
    batch_timeout: [
      type: Options.time(1),
      default: 1_000,
      doc: "After how many milliseconds a batch is emitted that is not full."
    ]
  ]

  # The settings that a single event may override.
  @of_event Keyword.take(@schema, [:window, :batch_size, :batch_timeout])

  defstruct for {key, spec} <- @schema, do: {key, spec[:default]}

  @type t :: %__MODULE__{
          window: non_neg_integer,
          max_windows: pos_integer,
          max_pending: pos_integer,
          batch_size: pos_integer,
          batch_timeout: pos_integer
        }

  @spec schema() :: Options.schema()
  def schema, do: @schema

  @doc """
  The settings in the application's environment, or an `ArgumentError`.
  """
  @spec read!() :: t
  def read!, do: struct!(__MODULE__, stored(Config.get(Foundation.Telemetry.SampledEvents)))

  @doc """
  One event's own settings, checked: those of the options.
  """
  @spec event!(keyword) :: keyword
  def event!(options) do
    valid = Options.validate!(options, @of_event, "the options of configure_event/2")
    valid |> Keyword.take(Keyword.keys(options)) |> stored()
  end

  @doc """
  A window in milliseconds, checked.
  """
  @spec window!(term) :: non_neg_integer
  def window!(window) do
    [window: Options.value!(window, @schema[:window][:type], ":window of emit_event/4")]
    |> stored()
    |> Keyword.fetch!(:window)
  end

  @doc """
  Whether a time in the tables stands for `:infinity`.
  """
  @spec never?(non_neg_integer) :: boolean
  def never?(time), do: time >= @never

  defp stored(settings) do
    for {key, value} <- settings, do: {key, if(value == :infinity, do: @never, else: value)}
  end

  @doc """
  The list of settings for the documentation.
  """
  @spec docs() :: String.t()
  def docs, do: Options.docs(@schema)
end
