defmodule Foundation.AgentRegistry do
  @moduledoc """
  The agents of the system: any term for an id, a process, and a map of metadata.

      :ok = Foundation.AgentRegistry.register_agent("agent-1", pid, %{role: :planner})
      {:ok, ^pid} = Foundation.AgentRegistry.get_agent("agent-1")

  An agent may be on another node. Nobody has to unregister: an agent that dies, or whose
  node goes, is removed.

  The table is an ordinary unique `Foundation.Registry` named `:foundation_agent_registry`,
  started with the application; `Foundation.Registry` reads it as any other, for example
  `Foundation.Registry.info(:foundation_agent_registry)`.

  ## Consistency

  Registering is atomic: of several processes that race for an id, one gets it. From the moment
  that `Process.alive?/1` returns `false`, no function returns the dead agent, and its id is free.
  Only `count/0` may lag behind deaths, by milliseconds. `update_metadata/2` is atomic. The table
  survives a crash of the process that owns it.

  With `:use_ets_agent_registry` off (`Foundation.FeatureFlags`, for migration only), agents that
  are registered are kept by the process that registers them, and seen by no other.

  ## Telemetry events

  | event | measurements | metadata | when |
  |---|---|---|---|
  | `[:foundation, :registry, :register]` | `%{count: 1}` | `%{agent_id: id}` | in the caller of `register_agent`, after the registration |
  | `[:foundation, :registry, :unregister]` | `%{count: 1}` | `%{agent_id: id}` | in the caller of `unregister_agent`, after the removal |
  | `[:foundation, :registry, :cleanup]` | `%{count: n}`, agents removed because they died | `%{}` | in a process of its own, soon after the deaths; the counts add up to the deaths |

  A handler of `:cleanup` that blocks delays later `:cleanup` events, which then come as one,
  and nothing else.

  ## Bounds

  Those of `Foundation.Registry`:
  `config :foundation, registry: [max_entries: :infinity, adopt_timeout: 60_000]`.
  `register_agent/2` raises `SystemLimitError` where the table is full.
  """

  alias Foundation.AgentRegistry.Shared
  alias Foundation.{Cluster, Config, Legacy, Registry}

  @table :foundation_agent_registry

  @type id :: term
  @type metadata :: map

  @doc false
  # The engine is given by this library's tests only.
  def child_spec(options) do
    case Config.get(:agent_registry)[:cluster] do
      nil ->
        Registry.child_spec([keys: :unique, name: @table] ++ Keyword.take(options, [:engine]))

      cluster ->
        Cluster.child_spec([name: @table] ++ cluster)
    end
  end

  @doc false
  def table, do: @table

  @doc """
  Registers an agent, without metadata.

  The same id and process again is `:ok` and changes nothing. `{:error, :not_alive}` for a dead
  process, `{:error, {:already_registered, pid}}` for an id that another process has. **Cost:**
  O(1); for an agent on another node one message there and back. Raises `ArgumentError` for what is
  no pid.

      iex> Foundation.AgentRegistry.register_agent("doc-1", self())
      :ok
      iex> Foundation.AgentRegistry.register_agent("doc-1", self())
      :ok
  """
  @doc since: "0.1.0"
  @spec register_agent(id, pid) :: :ok | {:error, {:already_registered, pid} | :not_alive}
  def register_agent(id, pid) do
    pid!(pid)

    case Shared.on_node_of(pid, id, :register_agent, [id, pid], fn -> register(id, pid, nil) end) do
      :again -> :ok
      result -> result
    end
  end

  @doc """
  Registers an agent with metadata, a map.

  As `register_agent/2`; the same id and process again replaces the metadata. Raises `ArgumentError`
  for metadata that is no map.

      iex> Foundation.AgentRegistry.register_agent("doc-2", self(), %{role: :planner})
      :ok
      iex> Foundation.AgentRegistry.get_agent_with_metadata("doc-2")
      {:ok, {self(), %{role: :planner}}}
  """
  @doc since: "0.1.0"
  @spec register_agent(id, pid, metadata) ::
          :ok | {:error, {:already_registered, pid} | :not_alive}
  def register_agent(id, pid, metadata) do
    pid!(pid)
    map!(metadata)

    Shared.on_node_of(pid, id, :register_agent, [id, pid, metadata], fn ->
      with :again <- register(id, pid, metadata),
           {:error, :not_found} <- swap(id, pid, fn _old -> metadata end) do
        # Gone between the two.
        register_agent(id, pid, metadata)
      end
    end)
  end

  defp register(id, pid, metadata) do
    if Legacy.Agents.takes?(id) and Registry.whereis_name({@table, id}) == :undefined do
      register_legacy(id, pid, metadata)
    else
      register_shared(id, pid, metadata)
    end
  end

  defp register_shared(id, pid, metadata) do
    case Shared.register(pid, id, metadata || %{}) do
      {:ok, _owner} -> announce(:register, id)
      {:error, {:already_registered, ^pid}} -> :again
      {:error, _reason} = error -> error
    end
  end

  defp register_legacy(id, pid, metadata) do
    case Legacy.Agents.register(id, pid, metadata) do
      :registered -> announce(:register, id)
      # The metadata is set already.
      :again -> :ok
      {:error, _reason} = error -> error
    end
  end

  @doc """
  Returns `{:ok, pid}` of an agent that is alive, or `{:error, :not_found}`. **Cost:** O(1), in
  the caller.

      iex> Foundation.AgentRegistry.get_agent("nobody")
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec get_agent(id) :: {:ok, pid} | {:error, :not_found}
  def get_agent(id) do
    case Registry.whereis_name({@table, id}) do
      :undefined -> with {:ok, {pid, _metadata}} <- find_legacy(id), do: {:ok, pid}
      pid -> {:ok, pid}
    end
  end

  @doc """
  Returns `{:ok, {pid, metadata}}` of an agent that is alive, or `{:error, :not_found}`. **Cost:**
  O(1) and a copy of the metadata, in the caller. Pid and metadata are of one moment.

      iex> Foundation.AgentRegistry.get_agent_with_metadata("nobody")
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec get_agent_with_metadata(id) :: {:ok, {pid, metadata}} | {:error, :not_found}
  def get_agent_with_metadata(id) do
    case Shared.lookup(id) do
      [agent] -> {:ok, agent}
      [] -> find_legacy(id)
    end
  end

  defp find_legacy(id) do
    case Legacy.Agents.find(id) do
      nil -> {:error, :not_found}
      agent -> {:ok, agent}
    end
  end

  @doc """
  Sets an agent's metadata to a map, or to what a function makes of it. For any process.

  Returns `:ok` or `{:error, :not_found}`. Concurrent calls lose no update: when another update
  came first, `fun` is called again with the newer metadata. It should only compute, and not
  update the same agent itself. If it raises, nothing has changed. **Cost:** O(size of the
  metadata). Raises `ArgumentError` if `fun` returns no map.

      iex> Foundation.AgentRegistry.register_agent("doc-3", self(), %{calls: 1})
      iex> count = &Map.update!(&1, :calls, fn n -> n + 1 end)
      iex> Foundation.AgentRegistry.update_metadata("doc-3", count)
      :ok
      iex> Foundation.AgentRegistry.get_agent_with_metadata("doc-3")
      {:ok, {self(), %{calls: 2}}}
  """
  @doc since: "0.1.0"
  @spec update_metadata(id, metadata | (metadata -> metadata)) :: :ok | {:error, :not_found}
  def update_metadata(id, fun) when is_function(fun, 1) do
    with {:ok, {pid, _metadata}} <- get_agent_with_metadata(id),
         {:error, :not_found} <- swap(id, pid, fun),
         :error <- Legacy.Agents.update(id, &map!(fun.(&1))) do
      # It moved between the two.
      if Legacy.Agents.find(id), do: update_metadata(id, fun), else: {:error, :not_found}
    end
  end

  def update_metadata(id, metadata) do
    map!(metadata)
    update_metadata(id, fn _old -> metadata end)
  end

  defp swap(id, pid, fun) do
    with [{^pid, entry}] <- Registry.lookup(@table, id),
         :stale <- Shared.replace(id, pid, entry, map!(fun.(Shared.metadata(entry)))) do
      swap(id, pid, fun)
    else
      :ok -> :ok
      _gone_or_anothers -> {:error, :not_found}
    end
  end

  @doc """
  Returns `{id, pid}` of all agents that are alive, in no particular order. **Cost:** O(agents),
  by chunks: no snapshot (see `Foundation.Registry.stream/1`).

      iex> Foundation.AgentRegistry.register_agent("doc-4", self())
      iex> {"doc-4", self()} in Foundation.AgentRegistry.list_agents()
      true
  """
  @doc since: "0.1.0"
  @spec list_agents() :: [{id, pid}]
  def list_agents do
    legacy = for {id, {pid, _metadata}} <- Legacy.Agents.all(), do: {id, pid}
    for({id, pid, _metadata} <- Registry.stream(@table), do: {id, pid}) ++ legacy
  end

  @doc """
  Removes an agent: `:ok`, or `{:error, :not_found}`. For any process. **Cost:** O(1).

      iex> Foundation.AgentRegistry.register_agent("doc-5", self())
      iex> Foundation.AgentRegistry.unregister_agent("doc-5")
      :ok
      iex> Foundation.AgentRegistry.unregister_agent("doc-5")
      {:error, :not_found}
  """
  @doc since: "0.1.0"
  @spec unregister_agent(id) :: :ok | {:error, :not_found}
  def unregister_agent(id) do
    case get_agent(id) do
      {:ok, pid} ->
        Shared.on_node_of(pid, id, :unregister_agent, [id], fn -> unregister_here(id, pid) end)

      not_found ->
        not_found
    end
  end

  defp unregister_here(id, pid) do
    if Shared.unregister(id, pid) do
      announce(:unregister, id)
    else
      cond do
        Legacy.Agents.remove(id) == :ok -> announce(:unregister, id)
        # It moved between the two.
        Legacy.Agents.find(id) -> unregister_agent(id)
        true -> {:error, :not_found}
      end
    end
  end

  @doc """
  Returns the number of agents. **Cost:** O(1); may run behind deaths by milliseconds.

      iex> Foundation.AgentRegistry.count() >= 0
      true
  """
  @doc since: "0.1.0"
  @spec count() :: non_neg_integer
  def count, do: map_size(Legacy.Agents.all()) + Registry.count(@table)

  defp announce(event, id),
    do: :telemetry.execute([:foundation, :registry, event], %{count: 1}, %{agent_id: id})

  defp pid!(pid) when is_pid(pid), do: pid

  defp pid!(other),
    do: raise(ArgumentError, "expected an agent to be a pid, got: #{inspect(other)}")

  defp map!(metadata) when is_map(metadata), do: metadata

  defp map!(other),
    do: raise(ArgumentError, "expected metadata to be a map, got: #{inspect(other)}")
end
