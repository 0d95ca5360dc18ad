defmodule Foundation.Config do
  alias Foundation.Options

  @place "config :foundation"

  @schema [
    engine: [
      type: {:in, [:auto, :native, :ets]},
      default: :auto,
      doc: """
      Which engine holds the tables. `:native` is the Rust library, and the application
      does not start where it cannot be used; `:ets` is pure Elixir, and the library is
      not even loaded; `:auto` takes the library and, where it cannot be used, ETS, with
      one warning that names the cause.
      """
    ],
    registry: [
      doc: "Of every `Foundation.Registry`:",
      type: [
        adopt_timeout: [
          type: Options.time(0),
          default: 60_000,
          doc: """
          How many milliseconds a table whose owner crashed is kept for the owner's
          successor, before it is destroyed. `:infinity` keeps it until a successor comes.
          """
        ],
        max_entries: [
          type: {:or, [{:integer, 1..0xFFFF_FFFF}, {:in, [:infinity]}]},
          default: :infinity,
          doc: "How many entries one table holds at most; past it `register/3` raises."
        ]
      ]
    ],
    agent_registry: [
      doc: "Of `Foundation.AgentRegistry`:",
      type: [
        cluster: [
          type: {:keyword_of, :any},
          default: nil,
          doc: """
          Options of `Foundation.Cluster.start_link/1` without `:name`. With them the agents of all
          connected nodes are in one registry: `[engine: :pg]`. The default is one for each node.
          """
        ]
      ]
    ],
    feature_flags: [
      type: {:keyword_of, {:or, [:boolean, {:integer, 0..100}]}},
      default: [],
      doc: "Values that feature flags start with, an integer being a percentage."
    ],
    error_context: [
      doc: "Bounds of every context of `Foundation.ErrorContext`:",
      type: Foundation.ErrorContext.Limits.schema()
    ],
    "Elixir.Foundation.Telemetry.SampledEvents": [
      doc: "Deduplicated and batched events, as a whole and where an event sets nothing else:",
      type: Foundation.Telemetry.Events.Settings.schema()
    ],
    audit: [
      doc: "Of `mix foundation.audit`:",
      type: [
        allow: [
          type: {:list_of, :string},
          default: [],
          doc: "Globs of files in which the process dictionary may be used."
        ]
      ]
    ],
    native: [
      type: :boolean,
      default: true,
      doc: """
      Read when `:foundation` is compiled: `false` neither fetches nor builds the library,
      which leaves the ETS engine.
      """
    ],
    releases_url: [
      type: {:or, [:string, {:in, [nil]}]},
      default: nil,
      doc: """
      Read when `:foundation` is compiled: the address of a directory to fetch prebuilt
      libraries from, in place of the project's own releases. They are compared with the
      checksums in the package, wherever they come from. Where there are none for this
      version, or `FOUNDATION_BUILD=1` is in the environment, the library is built by cargo,
      for which `:rustler` must be among the application's dependencies. Mix compiles a
      dependency once, so run `FOUNDATION_BUILD=1 mix deps.compile foundation --force`.
      """
    ]
  ]

  @moduledoc """
  The settings of `config :foundation, …`.

      config :foundation,
        engine: :native,
        registry: [adopt_timeout: :timer.minutes(5)]

      config :foundation, Foundation.Telemetry.SampledEvents, window: 5_000

  They are read and checked at each start of the application. One that is not of its type
  stops the start with an `ArgumentError`; a key that is unknown is warned of, as it may
  be somebody else's.

  ## Settings

  #{Options.docs(@schema)}
  """

  require Logger

  @doc """
  Returns the value of a setting, or its default. A section is a keyword list with its
  defaults filled in.

  Reads the application's environment: O(size of the setting), for starts and not for
  hot paths. Raises `ArgumentError` when the value is not of the setting's type.

      iex> Foundation.Config.get(:registry)[:adopt_timeout]
      60_000
  """
  @doc since: "0.1.0"
  @spec get(atom) :: term
  def get(key) do
    Options.fetch!(environment(), key, Keyword.fetch!(@schema, key), @place)
  end

  @doc false
  # Checked as the setting of that name is, where it is given elsewhere.
  @spec registry!(atom, term) :: term
  def registry!(key, value) do
    section = @schema[:registry][:type]
    Options.value!(value, section[key][:type], "#{inspect(key)} of Registry.start_link/1")
  end

  @doc false
  # At the start of the application: fails there and not at the first use.
  @spec validate!() :: :ok
  def validate! do
    {known, unknown} = Keyword.split(environment(), Keyword.keys(@schema))
    _settings = Options.validate!(known, @schema, @place)

    for {key, _value} <- unknown,
        key not in [:included_applications, Foundation.Native.Library] do
      Logger.warning(Options.unknown(key, @schema, @place))
    end

    :ok
  end

  defp environment, do: Application.get_all_env(:foundation)
end
