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

    @moduledoc """
    Exports the spans of `Foundation.Telemetry.Span` through OpenTelemetry, under the same ids.

        # In start/2 of the application, before its supervisor.
        Foundation.OpenTelemetry.setup()

    It needs `:opentelemetry_api`, and `:opentelemetry` with an exporter for anything to leave the
    node. The guide [Telemetry](telemetry.html) has a chapter on it.

    ## Spans

      * A span has the ids, the start and the end of its events, also when it ends out of order, in
        another process or as `:abandoned`.
      * Its parent is the span that its `parent_id` names, in this process, another, or on another
        node (`from_traceparent/1`). A span without a parent belongs to OpenTelemetry's current
        span, and is then exported in the trace of that.
      * A span of OpenTelemetry that starts inside one of these is its child: each is
        OpenTelemetry's current span until it ends.
      * OpenTelemetry's sampler decides which spans are exported.
      * A status of `:ok` is exported as unset, `:error`, `{:error, reason}` and `:abandoned` as
        errors, any other as the attribute `foundation.status`. An exception is the event
        `exception`, as the semantic conventions have it.
      * Names, keys and values that OpenTelemetry does not take are exported as text of at most
        `max_value_bytes` (see `Foundation.ErrorContext`).
      * Links that are added to an open span are exported as events named `link`: OpenTelemetry
        takes links only at the start.

    Of at most 100,000 open spans at once OpenTelemetry learns at their start. It learns of others,
    as of those that were open before `setup/1`, at their end, so its own spans are no children of
    those.

    It keeps OpenTelemetry's current span where that keeps it, in the process dictionary.

    ## Options

    #{Options.docs(@schema)}
    """

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
    @moduledoc false
    # Says what is missing.

    @spec setup() :: no_return
    @spec setup(keyword) :: no_return
    def setup(_options \\ []) do
      Foundation.Optional.missing!(__MODULE__, "opentelemetry_api", "~> 1.2")
    end
  end
end
