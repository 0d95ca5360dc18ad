# For those who have OpenTelemetry: its API is an optional dependency.
if match?({:module, _}, Code.ensure_compiled(:opentelemetry)) do
  defmodule Foundation.OpenTelemetry do
    alias Foundation.OpenTelemetry.{Exporter, Open}
    alias Foundation.Options

    @schema [
      tracer: [
        type: :atom,
        default: :foundation,
        doc: "The name of the tracer, which OpenTelemetry shows as the instrumentation scope."
      ]
    ]

    @external_resource Path.join(__DIR__, "open_telemetry/moduledoc.md")
    @moduledoc File.read!(Path.join(__DIR__, "open_telemetry/moduledoc.md")) <>
                 "\n## Options\n\n" <> Options.docs(@schema)

    @events for event <- [:start, :stop, :exception, :abandoned, :dropped],
                do: [:foundation, :span, event]

    @doc """
    Begins to export spans. A second call replaces the options of the first.

    **Cost:** from then on each span costs what a span of OpenTelemetry costs. Raises
    `ArgumentError` for an unknown option.

        iex> Foundation.OpenTelemetry.setup(tracer: :my_app)
        :ok
        iex> :telemetry.detach(Foundation.OpenTelemetry)
        :ok
    """
    @doc since: "0.1.0"
    @spec setup(tracer: atom) :: :ok
    def setup(options \\ []) do
      options = Options.validate!(options, @schema, "the options of Foundation.OpenTelemetry")
      :telemetry.detach(__MODULE__)
      Open.clear()
      :telemetry.attach_many(__MODULE__, @events, &Exporter.handle/4, Map.new(options))
    end
  end
else
  defmodule Foundation.OpenTelemetry do
    @external_resource Path.join(__DIR__, "open_telemetry/moduledoc.md")
    @moduledoc File.read!(Path.join(__DIR__, "open_telemetry/moduledoc.md"))

    @doc "Exports spans where `:opentelemetry_api` is. Here it raises, and says what is missing."
    @doc since: "0.1.0"
    @spec setup() :: no_return
    @spec setup(keyword) :: no_return
    def setup(_options \\ []) do
      Foundation.Optional.missing!(__MODULE__, "opentelemetry_api", "~> 1.2")
    end
  end
end
