defmodule Foundation.FeatureFlags do
  @moduledoc """
  The switches that move an application off the process dictionary, one area at a time.

  | flag | default | with the flag on |
  |---|---|---|
  | `:use_ets_agent_registry` | on | agents are in the shared table of `Foundation.AgentRegistry` |
  | `:use_logger_error_context` | on | `Foundation.ErrorContext` is in Logger metadata |
  | `:use_genserver_telemetry` | on | spans and windows are in shared tables, see `Foundation.Telemetry.Span` and `Foundation.Telemetry.SampledEvents` |
  | `:enforce_no_process_dict` | off | what would use the process dictionary raises instead |

  While one of the first three is off, its area keeps state in the process dictionary of the
  caller, as the code before the migration did. This mode exists only for the migration.
  `Foundation.Migration` changes the flags, and most applications never touch a flag themselves.

  A flag's value is a boolean or a percentage, a whole number of 0 to 100. A percentage is
  for code that asks with `enabled_for_id?/2`; to `enabled?/1`, which has no id to decide
  by, a flag is on when it is `true` or 100.

  Starting values come from the configuration:

      config :foundation, feature_flags: [use_logger_error_context: false]

  ## Consistency

  Reads are of one persistent term, in the calling process, and see a change as soon as
  the call that made it has returned. Changes are made one after another by one process. When
  that process is killed no flag changes; while it is away, reads go on and changes
  return `{:error, :unavailable}`. A start of the application takes the configured values.

  Flags are a node's own: a cluster is changed node by node.

  Each change makes the VM look through all processes for the old values: flags are for
  what changes a few times in a system's life.

  ## Telemetry events

  None of its own: `Foundation.Migration` emits one for each step that it makes.
  """

  alias Foundation.FeatureFlags.{Server, Table}
  alias Foundation.Options

  @type flag ::
          :use_ets_agent_registry
          | :use_logger_error_context
          | :use_genserver_telemetry
          | :enforce_no_process_dict
  @type percentage :: 0..100
  @type value :: boolean | percentage
  @type reason :: {:unknown_flag, term} | {:invalid_value, term} | :unavailable

  @doc false
  def child_spec(options) do
    %{id: __MODULE__, start: {Server, :start_link, [options]}}
  end

  @doc """
  Returns whether `flag` is on for all ids.

  **Cost:** O(1), in the caller. Raises `ArgumentError` if there is no such flag.

      iex> Foundation.FeatureFlags.enabled?(:use_logger_error_context)
      true
  """
  @doc since: "0.1.0"
  @spec enabled?(flag) :: boolean
  def enabled?(flag) do
    case :persistent_term.get(__MODULE__, nil) do
      %{^flag => {_value, enabled, _mode}} -> enabled
      _none -> elem(entry!(flag), 1)
    end
  end

  @doc """
  Returns whether `flag` is on for `id`, which is any term.

  A boolean flag has one value for all ids. A percentage is decided by a hash of flag and id. The
  same id gets the same answer in every process, on every node and after every restart. A higher
  percentage disables the flag for no id. The decisions of two flags are independent. **Cost:**
  O(size of `id`). Raises `ArgumentError` if there is no such flag.

      iex> Foundation.FeatureFlags.enabled_for_id?(:enforce_no_process_dict, "agent-1")
      false
  """
  @doc since: "0.1.0"
  @spec enabled_for_id?(flag, term) :: boolean
  def enabled_for_id?(flag, id) do
    case Table.value(entry!(flag)) do
      value when is_boolean(value) -> value
      # phash2 is stable across machines and releases; phash and the md5 of a term's external form
      # are not. It counts from 0, so 0 % selects no id and 100 % selects all.
      percentage -> :erlang.phash2({flag, id}, 100) < percentage
    end
  end

  @doc """
  Turns `flag` on for all ids. Returns and costs the same as `set/2`.

      iex> Foundation.FeatureFlags.enable(:use_logger_error_context)
      :ok
  """
  @doc since: "0.1.0"
  @spec enable(flag) :: :ok | {:error, reason}
  def enable(flag), do: set(flag, true)

  @doc """
  Turns `flag` off for all ids. Returns and costs the same as `set/2`.

      iex> Foundation.FeatureFlags.disable(:enforce_no_process_dict)
      :ok
  """
  @doc since: "0.1.0"
  @spec disable(flag) :: :ok | {:error, reason}
  def disable(flag), do: set(flag, false)

  @doc """
  Sets `flag` to a boolean or a percentage.

  Returns `:ok` once every process reads the new value, or `{:error, reason}`:
  `{:unknown_flag, flag}`, `{:invalid_value, value}`, or `:unavailable` while the process that
  makes the changes is away. A call of that process, which writes a persistent term: O(processes).

      iex> Foundation.FeatureFlags.set(:use_everything, true)
      {:error, {:unknown_flag, :use_everything}}
      iex> Foundation.FeatureFlags.set(:enforce_no_process_dict, 101)
      {:error, {:invalid_value, 101}}
  """
  @doc since: "0.1.0"
  @spec set(flag, value) :: :ok | {:error, reason}
  def set(flag, value), do: put([{flag, value}])

  @doc """
  Sets `flag` to a percentage, a whole number of 0 to 100. Returns as `set/2` does, and costs
  the same.

      iex> Foundation.FeatureFlags.set_percentage(:use_ets_agent_registry, 100)
      :ok
      iex> Foundation.FeatureFlags.set_percentage(:use_ets_agent_registry, true)
      {:error, {:invalid_value, true}}
      iex> Foundation.FeatureFlags.enable(:use_ets_agent_registry)
      :ok
  """
  @doc since: "0.1.0"
  @spec set_percentage(flag, percentage) :: :ok | {:error, reason}
  def set_percentage(flag, percentage) when is_integer(percentage), do: set(flag, percentage)
  def set_percentage(_flag, percentage), do: {:error, {:invalid_value, percentage}}

  @doc """
  Returns all flags with their values, as they were set. **Cost:** O(flags), in the caller.

      iex> Foundation.FeatureFlags.list_all()
      %{
        use_ets_agent_registry: true,
        use_logger_error_context: true,
        use_genserver_telemetry: true,
        enforce_no_process_dict: false
      }
  """
  @doc since: "0.1.0"
  @spec list_all() :: %{flag => value}
  def list_all do
    Map.new(Table.read(), fn {flag, entry} -> {flag, Table.value(entry)} end)
  end

  @doc """
  Gives all flags the values of a new application, whatever is configured.

  `:ok`, or `{:error, :unavailable}` while the process that makes the changes is away. Costs what
  `set/2` does.

      iex> Foundation.FeatureFlags.reset_all()
      :ok
  """
  @doc since: "0.1.0"
  @spec reset_all() :: :ok | {:error, :unavailable}
  def reset_all, do: Server.change(:reset)

  @doc """
  Lays the configured flags over the current ones; those that are not configured stay.

  `:ok`, or `{:error, reason}` as from `set/2` if one of them is wrong, and then none is changed.
  Costs what `set/2` does.

      iex> Foundation.FeatureFlags.load_from_config()
      :ok
  """
  @doc since: "0.1.0"
  @spec load_from_config() :: :ok | {:error, reason}
  def load_from_config, do: put(configured())

  @doc false
  # The start of the application, before anything that reads a flag.
  @spec boot() :: :ok | {:error, String.t()}
  def boot do
    with {:error, reason} <- Table.reset(configured()) do
      {:error, "config :foundation, :feature_flags: " <> explain(reason)}
    end
  end

  @doc false
  # Several flags in one step: all, or none.
  def put([]), do: :ok

  def put(changes) do
    with :ok <- Table.validate(changes), do: Server.change({:put, changes})
  end

  @doc false
  # How the area of `flag` is to run: see `Foundation.FeatureFlags.Table`.
  @spec mode(flag) :: Table.mode()
  defdelegate mode(flag), to: Table

  @doc false
  # For the backends that exist for migration only, before each use of the process dictionary.
  @spec allow_process_dictionary!(flag) :: :ok
  def allow_process_dictionary!(flag) do
    # Reads the mode, which is one term, and not the two flags behind it. Between the writes of
    # two flags a process would see a combination that refuses its call, although neither the old
    # nor the new state refuses it.
    if mode(flag) == :refused do
      raise "expected no use of the process dictionary while :enforce_no_process_dict is on, " <>
              "got one because #{inspect(flag)} is off"
    end

    :ok
  end

  defp configured, do: Application.get_env(:foundation, :feature_flags, [])

  defp entry!(flag) do
    case Table.read() do
      %{^flag => entry} -> entry
      _flags -> raise ArgumentError, explain({:unknown_flag, flag})
    end
  end

  defp explain({:unknown_flag, flag}) do
    flags = Table.flags()

    "expected a flag to be one of #{inspect(flags)}, got: #{inspect(flag)}" <>
      Options.suggestion(flag, flags)
  end

  defp explain({:invalid_value, value}) do
    "expected a flag to be a boolean or an integer from 0 to 100, got: #{inspect(value)}"
  end
end
