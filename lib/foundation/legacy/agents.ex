defmodule Foundation.Legacy.Agents do
  @moduledoc false
  # For migration only: keeps the agents that a process registers in that process's dictionary. No
  # other process sees them. The key is that of the code before the migration. While the flag is
  # off, registrations go here, and lookups still read the shared table. Once the flag is on
  # again, a process's next call carries its agents over.
  #
  # Each function is called after a lookup in the shared table, or before a write to it. It does
  # nothing if the flag was never off.

  alias Foundation.AgentRegistry
  alias Foundation.AgentRegistry.Shared
  alias Foundation.FeatureFlags

  require Logger

  @flag :use_ets_agent_registry
  @key :registered_agents

  @type agent :: {pid, AgentRegistry.metadata()}

  @doc "Whether an agent is to be registered here."
  @spec takes?(AgentRegistry.id()) :: boolean
  def takes?(id) do
    case mode() do
      :shared ->
        false

      :carrying ->
        carried(id)
        false

      # A percentage: its agents are in the table already.
      :legacy ->
        not FeatureFlags.enabled_for_id?(@flag, id)
    end
  end

  @doc "Registers an agent that the shared table lacks. With `nil` it keeps its metadata."
  @spec register(AgentRegistry.id(), pid, AgentRegistry.metadata() | nil) ::
          :registered | :again | {:error, {:already_registered, pid} | :not_alive}
  def register(id, pid, metadata) do
    case agents() do
      %{^id => {^pid, old}} ->
        put(id, {pid, metadata || old})
        :again

      %{^id => {other, _metadata}} ->
        if alive?(pid), do: {:error, {:already_registered, other}}, else: {:error, :not_alive}

      _free ->
        if alive?(pid) do
          put(id, {pid, metadata || %{}})
          :registered
        else
          {:error, :not_alive}
        end
    end
  end

  @doc "The agent that is here, or has just been carried over."
  @spec find(AgentRegistry.id()) :: agent | nil
  def find(id) do
    case mode() do
      :shared -> nil
      :carrying -> carried(id)
      :legacy -> Map.get(agents(), id)
    end
  end

  @doc "Sets the metadata of an agent that is here."
  @spec update(AgentRegistry.id(), (AgentRegistry.metadata() -> AgentRegistry.metadata())) ::
          :ok | :error
  def update(id, fun) do
    with :legacy <- mode(), %{^id => {pid, metadata}} <- agents() do
      put(id, {pid, fun.(metadata)})
      :ok
    else
      _elsewhere -> :error
    end
  end

  @doc "Removes an agent that is here."
  @spec remove(AgentRegistry.id()) :: :ok | :error
  def remove(id) do
    with :legacy <- mode(), agents when is_map_key(agents, id) <- agents() do
      Process.put(@key, Map.delete(agents, id))
      :ok
    else
      _elsewhere -> :error
    end
  end

  @doc "All agents that are here."
  @spec all() :: %{AgentRegistry.id() => agent}
  def all do
    case mode() do
      :shared ->
        %{}

      # They are in the table then.
      :carrying ->
        carried(nil)
        %{}

      :legacy ->
        agents()
    end
  end

  @doc """
  Returns the live agents in the calling process's dictionary, independently of the flags.
  """
  @spec agents() :: %{AgentRegistry.id() => agent}
  def agents do
    case Process.get(@key) do
      nil -> %{}
      agents -> for {id, agent} <- agents, alive?(pid(agent)), into: %{}, do: {id, whole(agent)}
    end
  end

  # Applications often kept only a pid under this key.
  defp whole({pid, metadata}), do: {pid, metadata}
  defp whole(pid), do: {pid, %{}}

  defp pid({pid, _metadata}), do: pid
  defp pid(pid) when is_pid(pid), do: pid

  @doc """
  Moves everything that is here into the shared table, and returns what has moved.

  All of it, or none: `{:error, {:already_registered, id, pid}}` if another process has an id there.
  """
  @spec carry_over() ::
          {:ok, %{AgentRegistry.id() => agent}}
          | {:error, {:already_registered, AgentRegistry.id(), pid}}
  def carry_over do
    result =
      Enum.reduce_while(agents(), {:ok, %{}}, fn {id, {pid, metadata}}, {:ok, carried} ->
        case Shared.register(pid, id, metadata) do
          {:ok, _owner} -> {:cont, {:ok, Map.put(carried, id, {pid, metadata})}}
          {:error, :not_alive} -> {:cont, {:ok, carried}}
          {:error, {:already_registered, ^pid}} -> {:cont, {:ok, carried}}
          {:error, {:already_registered, other}} -> {:halt, {{id, other}, carried}}
        end
      end)

    case result do
      {:ok, carried} ->
        Process.delete(@key)
        {:ok, carried}

      {{id, other}, carried} ->
        leave_table(carried)
        {:error, {:already_registered, id, other}}
    end
  end

  @doc "Takes back what `carry_over/0` has moved."
  @spec take_back(%{AgentRegistry.id() => agent}) :: :ok
  def take_back(carried) when carried == %{}, do: :ok

  def take_back(carried) do
    leave_table(carried)
    Process.put(@key, Map.merge(carried, agents()))
    :ok
  end

  defp leave_table(carried) do
    for {id, {pid, _metadata}} <- carried do
      Shared.unregister(id, pid)
    end
  end

  # Carries agents over in a process that calls after another process turned the flag on. If two
  # processes had one id, each in its own dictionary, the later one loses its agent, with a
  # warning.
  defp carried(id) do
    case agents() do
      agents when agents == %{} ->
        nil

      agents ->
        with {:error, {:already_registered, taken, other}} <- carry_over() do
          {{pid, _metadata}, others} = Map.pop!(agents, taken)
          Process.put(@key, others)

          Logger.warning(
            "expected agent #{inspect(taken)} to be registered by one process, got " <>
              "#{inspect(pid)} and #{inspect(other)} while agents were in process dictionaries; " <>
              "#{inspect(other)} stays"
          )
        end

        carried(id) || shared(id)
    end
  end

  defp shared(id) do
    case Shared.lookup(id) do
      [agent] -> agent
      [] -> nil
    end
  end

  defp mode do
    case FeatureFlags.mode(@flag) do
      :refused -> FeatureFlags.allow_process_dictionary!(@flag)
      mode -> mode
    end
  end

  defp put(id, agent), do: Process.put(@key, Map.put(agents(), id, agent))

  # Of another node's processes nothing is known here.
  defp alive?(pid), do: node(pid) != node() or Process.alive?(pid)
end
