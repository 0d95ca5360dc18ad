defmodule Foundation.Telemetry.Metrics do
  @moduledoc """
  Metrics of every event of Foundation, for the reporters of `:telemetry_metrics`.

      children = [
        {TelemetryMetricsPrometheus, metrics: Foundation.Telemetry.Metrics.definitions()}
      ]

  Any reporter takes them: Prometheus, StatsD, the console. The guide
  [Prometheus and Grafana](prometheus.html) has a dashboard for them.

  A metric's name is the event's with the measurement: `foundation.event_log.commit.duration`.
  Durations are distributions in milliseconds. Their buckets stand under `:buckets` in the reporter
  options.

  ## Tags

  Tags have few values: `:name`, `:cache`, `:log`, `:cluster`, `:node`, `:module`, `:status`,
  `:result`, `:kind` and `:feature`. Ids, keys and reasons are no tags. The `:name` of a circuit
  breaker is that of the instance, without its key. The `:name` of a span is text, so an application
  whose span names are unbounded should leave these metrics out:

      Enum.reject(Foundation.Telemetry.Metrics.definitions(), &(:name in &1.tags))
  """

  alias Foundation.OpenTelemetry.Value
  alias Foundation.Optional

  @library Telemetry.Metrics
  @compile {:no_warn_undefined, @library}

  # In milliseconds: from a commit to an SSD to a call that was forgotten.
  @buckets [0.1, 0.5, 1, 5, 10, 50, 100, 500, 1_000, 5_000, 10_000, 60_000]

  # {kind, event, measurement, tags, description}. The measurement `:count` of a counter is only
  # a part of its name.
  @metrics [
    {:counter, [:registry, :register], :count, [], "Agents registered"},
    {:counter, [:registry, :unregister], :count, [], "Agents unregistered"},
    {:sum, [:registry, :cleanup], :count, [], "Agents removed because they died"},
    {:counter, [:cluster, :conflict], :count, [:cluster], "Registrations that lost a conflict"},
    {:counter, [:cluster, :node_up], :count, [:cluster, :node], "Nodes that became members"},
    {:counter, [:cluster, :node_down], :count, [:cluster, :node], "Members that went"},
    {:counter, [:cluster, :synced], :count, [:cluster, :node], "Members whose names are here"},
    {:counter, [:cache, :load, :start], :count, [:cache], "Loads begun"},
    {:duration, [:cache, :load, :stop], :duration, [:cache, :result], "Loads that returned"},
    {:duration, [:cache, :load, :exception], :duration, [:cache, :kind], "Loads that failed"},
    {:counter, [:circuit_breaker, :open], :count, [:name], "Circuit breakers opened"},
    {:last_value, [:circuit_breaker, :open], :open_ms, [:name], "Time that a breaker stays open"},
    {:counter, [:circuit_breaker, :half_open], :count, [:name], "Circuit breakers on probation"},
    {:counter, [:circuit_breaker, :close], :count, [:name], "Circuit breakers closed"},
    {:counter, [:circuit_breaker, :isolate], :count, [:name], "Circuit breakers isolated"},
    {:counter, [:retry, :attempt], :count, [:name], "Attempts that failed and are retried"},
    {:wait, [:retry, :attempt], :wait_ms, [:name], "Waits before a retry"},
    {:duration, [:event_log, :commit], :duration, [:log], "Commits of the event log"},
    {:sum, [:event_log, :commit], :appends, [:log], "Appends committed"},
    {:sum, [:event_log, :commit], :events, [:log], "Events committed"},
    {:sum, [:event_log, :commit], :bytes, [:log], "Bytes committed"},
    {:sum, [:event_log, :recover], :cut_bytes, [:log], "Bytes cut at a start after a crash"},
    {:counter, [:event_log, :damaged], :count, [:log], "Damage found in an event log"},
    {:duration, [:state, :restore], :duration, [:module], "Restores of a state"},
    {:duration, [:state, :checkpoint], :duration, [:module], "Checkpoints written"},
    {:last_value, [:state, :checkpoint], :bytes, [:module], "Bytes of the last checkpoint"},
    {:counter, [:state, :checkpoint_failed], :count, [:module], "Checkpoints that failed"},
    {:counter, [:state, :corrupt], :count, [], "Damaged checkpoints"},
    {:last_value, [:migration, :stage], :stage, [], "Stage of the migration"},
    {:counter, [:error_context, :set], :count, [], "Contexts set"},
    {:counter, [:span, :start], :count, [:name], "Spans started"},
    {:duration, [:span, :stop], :duration, [:name, :status], "Spans that ended"},
    {:duration, [:span, :exception], :duration, [:name, :kind], "Spans that raised"},
    {:duration, [:span, :abandoned], :duration, [:name], "Spans whose process died"},
    {:sum, [:span, :dropped], :count, [], "Abandoned spans without an event"}
  ]

  @doc """
  Returns a `Telemetry.Metrics` struct for every metric of Foundation.

  **Cost:** each handler runs in the process that emits the event, so leave out the metrics of
  frequent events that you do not need. Raises `RuntimeError` without the package
  `:telemetry_metrics`.

      iex> metrics = Foundation.Telemetry.Metrics.definitions()
      iex> Enum.find(metrics, &(&1.name == [:foundation, :registry, :register, :count])).event_name
      [:foundation, :registry, :register]
  """
  @doc since: "0.1.0"
  @spec definitions() :: [struct]
  def definitions, do: build(@library)

  @doc false
  @spec build(module) :: [struct]
  def build(library) do
    unless Code.ensure_loaded?(library) do
      Optional.absent!("Foundation.Telemetry.Metrics", "telemetry_metrics", "~> 1.0")
    end

    for {kind, event, measurement, tags, description} <- @metrics do
      name = [:foundation | event] ++ [measurement]
      options = [tags: tags, description: description, tag_values: &__MODULE__.tag_values/1]
      {function, more} = kind(kind)
      apply(library, function, [name, options ++ more])
    end
  end

  defp kind(:duration), do: {:distribution, [unit: {:native, :millisecond}] ++ buckets()}
  defp kind(:wait), do: {:distribution, [unit: :millisecond] ++ buckets()}
  defp kind(kind), do: {kind, []}

  defp buckets, do: [reporter_options: [buckets: @buckets]]

  @doc false
  # Reporters print tags, and cannot print every term.
  @spec tag_values(map) :: map
  def tag_values(metadata) do
    Map.new(metadata, fn
      {:name, {name, _key}} when is_atom(name) -> {:name, name}
      {:name, name} -> {:name, Value.name(name)}
      {:status, status} when not is_atom(status) -> {:status, status(status)}
      other -> other
    end)
  end

  # Reasons are unbounded.
  defp status({:error, _reason}), do: :error
  defp status(_status), do: :other
end
