defmodule Foundation.HealthCheck do
  @moduledoc """
  Figures of the running system, for probes, dashboards and people.

  Each check reads what is there and never raises: a part that is down is a figure too.
  """

  alias Foundation.{AgentRegistry, Registry}
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
      owner_alive: Process.whereis(table) != nil,
      processes:
        Map.new(Foundation.RegistrySupervisor.processes(), &{&1, Process.whereis(&1) != nil})
    }
    |> Map.merge(table_figures(table))
  end

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
    # What it raises where no such table is known.
    ArgumentError ->
      %{table_exists: false, entry_count: 0, memory_usage: 0, drops: 0, engine: nil}
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
      span_genserver: Process.whereis(Span) != nil,
      events_genserver: Process.whereis(SampledEvents) != nil,
      tables_owner: Process.whereis(Tables) != nil,
      tables_exist: Enum.all?(tables, fn {_table, exists?} -> exists? end),
      tables: tables,
      engine: Tables.engine(),
      stats: event_stats()
    }
  end

  defp event_stats do
    SampledEvents.stats()
  rescue
    # What is raised where there are no tables, or they go away meanwhile.
    _error in [RuntimeError, ArgumentError, MatchError, FunctionClauseError] -> nil
  end
end
