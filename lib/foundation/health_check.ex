defmodule Foundation.HealthCheck do
  @moduledoc """
  Figures of the running system, for probes, dashboards and people.

  Each check reads the current state and never raises: a part that is down is a figure too. The
  guide [Operating](operating.html) says which figures to watch.

  ## Consistency

  Each figure is read at a moment of its own, in the caller: together they are no snapshot.
  `entry_count` may run behind deaths by milliseconds. Nothing is changed by a check, and nothing
  waits for it.

  ## Telemetry events

  None: a check answers who asks. Each area emits its own events.
  """

  alias Foundation.{AgentRegistry, Cache, Cluster, ErrorContext, EventLog, FeatureFlags}
  alias Foundation.{Migration, Native, Registry}
  alias Foundation.Cluster.Config
  alias Foundation.Resilience.Figures
  alias Foundation.Telemetry.{SampledEvents, Span, Tables}

  @doc """
  Returns figures of the registry: of the agents' table, and of the processes beside it.

    * `:table_exists` - whether the agents' table can be read
    * `:owner_alive` - whether its owner is up; for the moment of a restart it is not
    * `:entry_count` - agents
    * `:memory_usage` - the table's size in bytes
    * `:drops` - registrations that a bound refused
    * `:engine` - `:native` or `:ets`; `nil` where there is no table
    * `:processes` - whether each of the registry's own processes is up, by name

  O(1) in the native engine, O(agents) in the ETS engine.

      iex> %{table_exists: true, owner_alive: true} = Foundation.HealthCheck.check_registry()
  """
  @doc since: "0.1.0"
  @spec check_registry() :: %{
          table_exists: boolean,
          owner_alive: boolean,
          entry_count: non_neg_integer,
          memory_usage: non_neg_integer,
          drops: non_neg_integer,
          engine: :native | :ets | nil,
          processes: %{module => boolean}
        }
  def check_registry do
    table = AgentRegistry.table()

    %{
      owner_alive: up?(table),
      processes: Map.new(Foundation.RegistrySupervisor.processes(), &{&1, up?(&1)})
    }
    |> Map.merge(table_figures(table))
  end

  @doc """
  Returns figures of the telemetry area.

    * `:span_genserver` - whether the process that ends abandoned spans is up
    * `:events_genserver` - whether the process that emits batches is up
    * `:tables_owner` - whether the process that owns the tables is up
    * `:tables_exist` - whether both tables can be used
    * `:tables` - the same for each, by name
    * `:engine` - `:native` or `:ets`; `nil` where there are no tables
    * `:stats` - `Foundation.Telemetry.SampledEvents.stats/0`; `nil` where there are no tables

  O(names of events).

      iex> %{span_genserver: true, events_genserver: true, tables_exist: true} =
      ...>   Foundation.HealthCheck.check_telemetry()
  """
  @doc since: "0.1.0"
  @spec check_telemetry() :: %{
          span_genserver: boolean,
          events_genserver: boolean,
          tables_owner: boolean,
          tables_exist: boolean,
          tables: %{span_contexts: boolean, sampled_events_state: boolean},
          engine: :native | :ets | nil,
          stats: SampledEvents.stats() | nil
        }
  def check_telemetry do
    tables = Tables.exist?()

    %{
      span_genserver: up?(Span),
      events_genserver: up?(SampledEvents),
      tables_owner: up?(Tables),
      tables_exist: Enum.all?(tables, fn {_table, exists?} -> exists? end),
      tables: tables,
      engine: Tables.engine(),
      stats: event_stats()
    }
  end

  @doc """
  Returns figures of every open `Foundation.EventLog` of this node, by name.

    * `:owner_alive` - whether the log's owner is up; for the moment of a restart it is not
    * the figures of `Foundation.EventLog.info/1`

  **Cost:** O(logs).

      iex> is_map(Foundation.HealthCheck.check_event_log().logs)
      true
  """
  @doc since: "0.1.0"
  @spec check_event_log() :: %{logs: %{atom => map}}
  def check_event_log do
    names = Native.event_log_names() || []
    %{logs: for(name <- names, figures = log_figures(name), into: %{}, do: {name, figures})}
  end

  defp log_figures(name) do
    owner = Native.event_log_owner(name)
    name |> EventLog.info() |> Map.put(:owner_alive, is_pid(owner) and Process.alive?(owner))
  rescue
    # It was closed meanwhile.
    ArgumentError -> nil
  end

  @doc """
  Returns figures of every `Foundation.Cluster` of this node, by name.

    * the figures of `Foundation.Cluster.info/1`
    * `:table_exists` - whether the names can be read; if not, the figures of `info/1` are missing
    * `:processes` - whether each of the cluster's own processes is up, by role

  **Cost:** O(persistent terms of the VM), and what `Foundation.Cluster.info/1` costs. Never raises.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Health.Cluster)
      iex> Foundation.HealthCheck.check_cluster().clusters[Docs.Health.Cluster].state
      :up
  """
  @doc since: "0.1.0"
  @spec check_cluster() :: %{clusters: %{atom => map}}
  def check_cluster do
    configs = for name <- Config.names(), {:ok, config} <- [Config.fetch(name)], do: config
    %{clusters: Map.new(configs, &{&1.name, cluster_figures(&1)})}
  end

  defp cluster_figures(config) do
    config.name
    |> Cluster.info()
    |> Map.merge(%{table_exists: true, processes: cluster_processes(config)})
  rescue
    # Raised when a table of the cluster is unknown.
    ArgumentError -> %{table_exists: false, processes: cluster_processes(config)}
  end

  defp cluster_processes(config) do
    names =
      Map.put(
        Map.take(config, [:groups, :scope, :replicator, :fanout, :ensure, :supervisor]),
        :names,
        config.name
      )

    Map.new(names, fn {role, name} -> {role, up?(name)} end)
  end

  @doc """
  Returns figures of every bulkhead, circuit breaker and rate limiter of this node, by name.

    * `:bulkheads` - `:owner_alive`, `:full` and `:full_count`. Full are the bare name and the keys
      with no permit left, as `name` or `{name, key}`
    * `:circuit_breakers` - `:owner_alive`, `:open` and `:open_count`. Open are the bare name and
      the keys that are not closed, as `{name, state}` or `{{name, key}, state}`. The state is
      `:open`, `:half_open` or `:isolated`
    * `:rate_limiters` - `:owner_alive`

  `:owner_alive` is `false` for the moment of the owner's restart. `:full` and `:open` list at most
  100 of an instance, in no order. `:full_count` and `:open_count` count all of them.

  A breaker stays `:open` after its time until the next call. Keys that come or go meanwhile may be
  missing. Never raises.

  **Cost:** O(keys), read 500 at a time. Other processes run between two chunks.

      iex> {:ok, _} = Foundation.CircuitBreaker.start_link(name: Docs.Health.Breaker)
      iex> Foundation.CircuitBreaker.isolate({Docs.Health.Breaker, :eu})
      iex> Foundation.HealthCheck.check_resilience().circuit_breakers[Docs.Health.Breaker]
      %{owner_alive: true, open: [{{Docs.Health.Breaker, :eu}, :isolated}], open_count: 1}
  """
  @doc since: "0.1.0"
  @spec check_resilience() :: %{
          bulkheads: %{
            atom => %{
              owner_alive: boolean,
              full: [Foundation.Bulkhead.name()],
              full_count: non_neg_integer
            }
          },
          circuit_breakers: %{
            atom => %{
              owner_alive: boolean,
              open: [{Foundation.CircuitBreaker.name(), Foundation.CircuitBreaker.state()}],
              open_count: non_neg_integer
            }
          },
          rate_limiters: %{atom => %{owner_alive: boolean}}
        }
  def check_resilience, do: Figures.all()

  @doc """
  Returns figures of every `Foundation.Cache` of this node, by name.

    * the figures of `Foundation.Cache.stats/1`.
    * `:owner_alive` - whether the owner is up; for the moment of a restart it is not.
    * `:max_bytes` - the bound of `:bytes`.
    * `:engine` - `:native` or `:ets`.

  Never raises. A cache that stops meanwhile is left out. **Cost:** O(caches).

      iex> {:ok, _} = Foundation.Cache.start_link(name: Docs.Health.Cache, max_bytes: 1_000_000)
      iex> Foundation.HealthCheck.check_cache().caches[Docs.Health.Cache].owner_alive
      true
  """
  @doc since: "0.1.0"
  @spec check_cache() :: %{caches: %{atom => map}}
  def check_cache do
    caches =
      for {config, owner, _cells} <- Cache.Instance.all(),
          figures = cache_figures(config, owner),
          into: %{},
          do: {config.name, figures}

    %{caches: caches}
  end

  defp cache_figures(config, owner) do
    config.name
    |> Cache.stats()
    |> Map.merge(Map.take(config, [:max_bytes, :engine]))
    |> Map.put(:owner_alive, Process.alive?(owner))
  rescue
    # It was stopped meanwhile.
    ArgumentError -> nil
  end

  @doc """
  Returns the figures of all areas:

    * `:registry` - `check_registry/0`
    * `:telemetry` - `check_telemetry/0`
    * `:event_log` - `check_event_log/0`
    * `:cluster` - `check_cluster/0`
    * `:resilience` - `check_resilience/0`
    * `:cache` - `check_cache/0`
    * `:flags` - `:server`, whether flags can be changed, and `:values`
    * `:migration` - `:stage`
    * `:error_context` - `:server`, whether the context of a raise is kept

  Never raises. **Cost:** the sum of these checks.

      iex> Foundation.HealthCheck.check_all().flags.values.use_ets_agent_registry
      true
  """
  @doc since: "0.1.0"
  @spec check_all() :: %{
          registry: map,
          telemetry: map,
          event_log: map,
          cluster: map,
          resilience: map,
          cache: map,
          flags: %{server: boolean, values: map},
          migration: %{stage: Migration.stage()},
          error_context: %{server: boolean}
        }
  def check_all do
    %{stage: stage, flags: flags} = Migration.status()

    %{
      registry: check_registry(),
      telemetry: check_telemetry(),
      event_log: check_event_log(),
      cluster: check_cluster(),
      resilience: check_resilience(),
      cache: check_cache(),
      flags: %{server: up?(FeatureFlags), values: flags},
      migration: %{stage: stage},
      error_context: %{server: up?(ErrorContext.Raised)}
    }
  end

  @doc """
  Returns `:ok`, or `{:degraded, reasons}` while anything that is supervised is down.

  A reason is one of these:

    * `{:down, id}` - a child below `Foundation.Supervisor`, at any depth, by its id
    * `{:missing, table}` - the tables of `:registry` or `:telemetry`
    * `:not_running` - the application has not been started

  A process that crashed and that its supervisor has started again is no reason. An open circuit
  breaker or a full bulkhead is no reason either: `check_resilience/0` shows them. Never raises.

  Asks each supervisor, and so waits for one that is just starting a child, at most a second.

      iex> Foundation.HealthCheck.status()
      :ok
  """
  @doc since: "0.1.0"
  @spec status() :: :ok | {:degraded, [{:down, term} | {:missing, atom} | :not_running, ...]}
  def status do
    case down(Foundation.Supervisor) ++ missing() do
      [] -> :ok
      reasons -> {:degraded, reasons}
    end
  end

  defp down(Foundation.Supervisor = top) do
    if up?(top), do: below(top, top), else: [:not_running]
  end

  defp down_below(supervisor) do
    # Not Supervisor.which_children/1, which has no timeout.
    children = GenServer.call(supervisor, :which_children, 1_000)

    Enum.flat_map(children, fn
      {id, pid, :supervisor, _modules} when is_pid(pid) -> below(id, pid)
      {_id, pid, _type, _modules} when is_pid(pid) -> []
      {id, _undefined_or_restarting, _type, _modules} -> [{:down, id}]
    end)
  end

  defp below(id, pid) do
    down_below(pid)
  catch
    # It ended, or is busy for more than a second: both are what is asked here.
    :exit, _reason -> [{:down, id}]
  end

  defp missing do
    tables = [registry: check_registry().table_exists, telemetry: check_telemetry().tables_exist]
    for {table, false} <- tables, do: {:missing, table}
  end

  defp up?(name), do: Process.whereis(name) != nil

  defp table_figures(table) do
    info = Registry.info(table)

    %{
      table_exists: true,
      entry_count: info.size,
      memory_usage: info.memory,
      drops: info.drops,
      engine: info.engine
    }
  rescue
    # Raised when the table is unknown.
    ArgumentError ->
      %{table_exists: false, entry_count: 0, memory_usage: 0, drops: 0, engine: nil}
  end

  defp event_stats do
    SampledEvents.stats()
  rescue
    # Raised when there are no tables, or when they disappear meanwhile.
    _error in [RuntimeError, ArgumentError, MatchError, FunctionClauseError] -> nil
  end
end
