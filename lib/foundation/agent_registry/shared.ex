defmodule Foundation.AgentRegistry.Shared do
  @moduledoc false
  # The agents' table, which is an ordinary registry, or the one of a cluster if the configuration
  # says so. In a cluster an entry is `{stamp, metadata}`, and only the agent's node writes it.

  alias Foundation.{AgentRegistry, Cluster, Registry}
  alias Foundation.Cluster.{Config, Replicator}
  alias Foundation.Registry.Backend

  @table :foundation_agent_registry

  # How long the caller waits for its own replica after a call on another node.
  @replica_ms 1_000
  @poll_ms 1

  @doc """
  Runs `here`, or in a cluster the function of `Foundation.AgentRegistry` on the agent's node.

  After a call on another node it waits until the replica of this node shows the result.
  """
  @spec on_node_of(pid, term, atom, [term], (() -> result)) :: result when result: term
  def on_node_of(pid, _id, _function, _arguments, here) when node(pid) == node(), do: here.()

  def on_node_of(pid, id, function, arguments, here) do
    if Config.fetch(@table) == :error do
      here.()
    else
      result = call(node(pid), AgentRegistry, function, arguments)
      if result == :ok, do: await(function, id, pid, now() + @replica_ms)
      result
    end
  end

  defp call(node, module, function, arguments) do
    :erpc.call(node, module, function, arguments, 5_000)
  catch
    # The node is gone, and its agents with it.
    :error, {:erpc, _reason} -> {:error, gone(function)}
  end

  defp gone(:register_agent), do: :not_alive
  defp gone(_function), do: :not_found

  defp await(function, id, pid, deadline) do
    here? = Registry.whereis_name({@table, id}) == pid

    if here? != (function == :register_agent) and now() < deadline do
      Process.sleep(@poll_ms)
      await(function, id, pid, deadline)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)

  @doc "Registers an agent; in a cluster, one of this node."
  @spec register(pid, term, map) :: {:ok, pid} | {:error, term}
  def register(pid, id, metadata) do
    if Config.fetch(@table) == :error,
      do: Registry.register_for(@table, pid, id, metadata),
      else: Cluster.register_for(@table, pid, id, metadata)
  end

  @doc "The agent and its metadata, as `Foundation.Registry.lookup/2`."
  @spec lookup(term) :: [{pid, map}]
  def lookup(id), do: for({pid, entry} <- Registry.lookup(@table, id), do: {pid, metadata(entry)})

  @doc "The metadata of an entry."
  @spec metadata(term) :: map
  def metadata({_stamp, metadata}), do: metadata
  def metadata(metadata), do: metadata

  @doc "Sets the metadata of an entry if it is unchanged; `:stale` if it is not."
  @spec replace(term, pid, term, map) :: :ok | :stale | :error
  def replace(id, pid, {stamp, _old} = entry, metadata) do
    arguments = [id, pid, entry, {stamp, metadata}]

    if node(pid) == node(),
      do: apply(__MODULE__, :replace_here, arguments),
      else: replaced(call(node(pid), __MODULE__, :replace_here, arguments))
  end

  def replace(id, pid, old, metadata),
    do: Backend.of!(@table).replace(@table, id, pid, old, metadata)

  defp replaced({:error, :not_found}), do: :error
  defp replaced(result), do: result

  @doc false
  def replace_here(id, pid, old, new) do
    with :ok <- Backend.of!(@table).replace(@table, id, pid, old, new),
         {:ok, config} <- Config.fetch(@table) do
      Replicator.changed(config, {:name, id})
    end
  end

  @doc "Removes an agent; of two callers one gets `true`."
  @spec unregister(term, pid) :: boolean
  def unregister(id, pid) do
    case Config.fetch(@table) do
      :error ->
        backend = Backend.of!(@table)
        # By its own number, so that of two callers one has removed it.
        entries = for {entry, _metadata} <- backend.entries(@table, id, pid), do: entry
        backend.remove(@table, id, pid, entries) == 1

      {:ok, config} ->
        removed? = Replicator.call(config, {:unregister_for, pid, id})
        if removed?, do: config.backend.release(config, id, pid)
        removed?
    end
  end
end
