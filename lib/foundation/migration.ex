defmodule Foundation.Migration do
  @moduledoc """
  The way from the process dictionary to supervised state, in five stages, and back.

  | stage | turns on | from then on |
  |---|---|---|
  | 1 | | everything of Foundation runs and is watched, nothing is used yet |
  | 2 | `:use_ets_agent_registry` | agents are in the shared registry |
  | 3 | `:use_logger_error_context` | the error context is in Logger metadata |
  | 4 | `:use_genserver_telemetry` | spans and windows are in shared tables |
  | 5 | `:enforce_no_process_dict` | what would use the process dictionary raises |

  A new application is at stage 4. One that is being migrated starts with

      config :foundation,
        feature_flags: [
          use_ets_agent_registry: false,
          use_logger_error_context: false,
          use_genserver_telemetry: false
        ]

  which is stage 1. The guide [Migrating](migrating.html) goes the whole way with an example.

  The stage is not stored: it is what the flags say (`Foundation.FeatureFlags`), the last before the
  first flag that is off. So it is the configuration that decides at the next start, and each
  stage that is to stay belongs there.

  ## Consistency

  A change of several stages is one change of flags: other processes see all of it or nothing.
  Before the change, the parts that it turns on are checked. Then the agents in the calling
  process's dictionary move to the registry, and its context moves to Logger metadata. If a step
  fails, everything stays as it was. Other processes carry over their state with their next call
  of the area. Changes on one node run one after another.

  ## Telemetry events

  | event | measurements | metadata | when |
  |---|---|---|---|
  | `[:foundation, :migration, :stage]` | `stage`: the one that is reached | `feature`: the flag that changed | for each step of a change that was made, in order, in the caller |
  """

  require Logger

  alias Foundation.Legacy
  alias Foundation.ErrorContext
  alias Foundation.FeatureFlags
  alias Foundation.Migration.Readiness

  @event [:foundation, :migration, :stage]

  # The flag that each stage turns on, and the area that must be healthy for it.
  @stages [
    {2, :use_ets_agent_registry, [:registry]},
    {3, :use_logger_error_context, [:error_context]},
    {4, :use_genserver_telemetry, [:telemetry]},
    {5, :enforce_no_process_dict, [:registry, :error_context, :telemetry]}
  ]

  @type stage :: 1..5
  @type reason ::
          {:unhealthy, area :: :registry | :error_context | :telemetry, parts :: [atom]}
          | {:already_registered, id :: term, pid}
          | {:invalid_stage, term}
          | :first_stage
          | :last_stage
          | :unavailable

  @doc """
  Returns the stage, and the flags that it is derived from. **Cost:** O(flags).

      iex> Foundation.Migration.status()
      %{
        stage: 4,
        flags: %{
          use_ets_agent_registry: true,
          use_logger_error_context: true,
          use_genserver_telemetry: true,
          enforce_no_process_dict: false
        }
      }
  """
  @doc since: "0.1.0"
  @spec status() :: %{stage: stage, flags: %{FeatureFlags.flag() => FeatureFlags.value()}}
  def status do
    flags = FeatureFlags.list_all()
    %{stage: stage(flags), flags: flags}
  end

  @doc """
  Goes to the next stage.

  `{:ok, stage}`, or `{:error, reason}` with everything as it was:

    * `{:unhealthy, area, parts}` - these parts of the area are down
    * `{:already_registered, id, pid}` - the caller has an agent `id` in its dictionary, and
      another process one of the same id in the registry
    * `:last_stage` - the fifth stage is the last
    * `:unavailable` - the process that changes flags is away

  Waits for other changes on this node, for a health check, and for one change of flags. **Cost:**
  O(processes), and O(agents and context of the caller).

      iex> Foundation.Migration.advance()
      {:ok, 5}
      iex> Foundation.Migration.advance()
      {:error, :last_stage}
      iex> Foundation.Migration.rollback()
      {:ok, 4}
  """
  @doc since: "0.1.0"
  @spec advance() :: {:ok, stage} | {:error, reason}
  def advance do
    alone(fn flags ->
      case List.keyfind(@stages, stage(flags) + 1, 0) do
        nil -> {:error, :last_stage}
        next -> change([{:on, next}])
      end
    end)
  end

  @doc """
  Goes to a stage, forward or back, all steps or none: `{:ok, stage}`, or `{:error, reason}` as from
  `advance/0`. The stage there is already is `{:ok, stage}` too, and changes nothing.

      iex> Foundation.Migration.to_stage(6)
      {:error, {:invalid_stage, 6}}
  """
  @doc since: "0.1.0"
  @spec to_stage(stage) :: {:ok, stage} | {:error, reason}
  def to_stage(stage) when stage in 1..5, do: alone(&change(steps(&1, stage)))
  def to_stage(other), do: {:error, {:invalid_stage, other}}

  @doc """
  Goes back by one stage: `{:ok, stage}`, or `{:error, reason}`: `:first_stage` if there is none
  before, `:unavailable` while the process that changes flags is away.

  Entries in the shared state stay there and are still found. **Cost:** one change of flags,
  O(processes).

      iex> Foundation.Migration.rollback()
      {:ok, 3}
      iex> Foundation.Migration.advance()
      {:ok, 4}
  """
  @doc since: "0.1.0"
  @spec rollback() :: {:ok, stage} | {:error, reason}
  def rollback do
    alone(fn flags ->
      case stage(flags) do
        1 -> {:error, :first_stage}
        stage -> change(steps(flags, stage - 1))
      end
    end)
  end

  @doc """
  Goes back to a stage, as `rollback/0` does. `{:error, {:invalid_stage, stage}}` if that is a later
  one than the present stage, or none.

      iex> Foundation.Migration.rollback(2)
      {:ok, 2}
      iex> Foundation.Migration.rollback(3)
      {:error, {:invalid_stage, 3}}
      iex> Foundation.Migration.to_stage(4)
      {:ok, 4}
  """
  @doc since: "0.1.0"
  @spec rollback(stage) :: {:ok, stage} | {:error, reason}
  def rollback(to) do
    alone(fn flags ->
      if to in 1..stage(flags),
        do: change(steps(flags, to)),
        else: {:error, {:invalid_stage, to}}
    end)
  end

  @doc """
  Goes back to stage 1 at once, whatever the stage is. `reason`, any term, goes into a warning in
  the log. `{:ok, 1}`, or `{:error, :unavailable}`; costs what `rollback/0` does.

      iex> Foundation.Migration.emergency_rollback("latency doubled")
      {:ok, 1}
      iex> Foundation.Migration.to_stage(4)
      {:ok, 4}
  """
  @doc since: "0.1.0"
  @spec emergency_rollback(term) :: {:ok, 1} | {:error, :unavailable}
  def emergency_rollback(reason) do
    with {:ok, 1} <- to_stage(1) do
      Logger.warning("Foundation went back to stage 1 of its migration: #{inspect(reason)}")
      {:ok, 1}
    end
  end

  defp stage(flags) do
    Enum.reduce_while(@stages, 1, fn {stage, flag, _areas}, reached ->
      if flags[flag] in [true, 100], do: {:cont, stage}, else: {:halt, reached}
    end)
  end

  # Off from the last, then on from the first: so each step is between neighbours.
  defp steps(flags, to) do
    off =
      for {stage, flag, _areas} = step <- Enum.reverse(@stages),
          stage > to and flags[flag] not in [false, 0],
          do: {:off, step}

    on =
      for {stage, flag, _areas} = step <- @stages,
          stage <= to and flags[flag] not in [true, 100],
          do: {:on, step}

    off ++ on
  end

  defp change(steps) do
    flags = for {direction, {_stage, flag, _areas}} <- steps, do: {flag, direction == :on}

    with :ok <- check(steps),
         {:ok, carried} <- carry_agents(flags),
         :ok <- put(flags, carried) do
      # Cannot fail: it is the caller's own.
      ErrorContext.Store.carry_over()
      for step <- steps, do: emit(step)
      {:ok, stage(FeatureFlags.list_all())}
    end
  end

  defp check(steps) do
    areas = for {:on, {_stage, _flag, areas}} <- steps, area <- areas, uniq: true, do: area

    Enum.find_value(areas, :ok, fn area ->
      with :ok <- Readiness.check(area), do: nil
    end)
  end

  # Before the flag is on, so that a refusal leaves nothing to be undone in other processes.
  defp carry_agents(flags) do
    if flags[:use_ets_agent_registry], do: Legacy.Agents.carry_over(), else: {:ok, %{}}
  end

  defp put(flags, carried) do
    with {:error, reason} <- FeatureFlags.put(flags) do
      Legacy.Agents.take_back(carried)
      {:error, reason}
    end
  end

  defp emit({:on, {stage, flag, _areas}}), do: emit(stage, flag)
  defp emit({:off, {stage, flag, _areas}}), do: emit(stage - 1, flag)

  defp emit(stage, flag) do
    :telemetry.execute(@event, %{stage: stage}, %{feature: flag})
  end

  # Of two changes at once the second one sees what the first one has made. A lock of this
  # node's own, which is released when its holder dies.
  defp alone(fun) do
    :global.trans({__MODULE__, self()}, fn -> fun.(FeatureFlags.list_all()) end, [node()])
  end
end
