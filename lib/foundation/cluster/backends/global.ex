defmodule Foundation.Cluster.Backends.Global do
  @moduledoc false
  # `:global` takes a lock on all nodes and gives the name to one process before the call returns.
  # When two parts of a network meet, it calls `resolve/3`, which applies the cluster's rule.

  @behaviour Foundation.Cluster.Backend

  alias Foundation.Cluster.{Config, Replica}
  alias Foundation.Registry

  # How long the resolver waits for the node of one of the two processes.
  @ask_ms 1_000

  @impl true
  def available, do: :ok

  @impl true
  def children(_config), do: []

  @impl true
  def claim(config, key, pid, _stamp) do
    # `:global` refuses a process that has another name, and logs an error. Asked first, it is an
    # ordinary refusal.
    if names(config, pid) -- [key] == [],
      do: register(config, key, pid, :again),
      else: taken(pid)
  end

  defp register(config, key, pid, if_free) do
    with :no <- :global.register_name(name(config, key), pid, &__MODULE__.resolve/3) do
      case {:global.whereis_name(name(config, key)), if_free} do
        # Its holder ended meanwhile, or the process has a name that is none of the cluster's.
        {:undefined, :again} -> register(config, key, pid, :refuse)
        {:undefined, :refuse} -> taken(pid)
        # Left from a call that was killed halfway. The replica decides.
        {^pid, _if_free} -> :ok
        {holder, _if_free} -> taken(holder)
      end
    else
      :yes -> :ok
    end
  end

  defp taken(pid), do: {:error, {:already_registered, pid}}
  defp names(config, pid), do: Registry.keys(config.name, pid)

  @impl true
  def release(config, key, pid) do
    if :global.whereis_name(name(config, key)) == pid,
      do: :global.unregister_name(name(config, key))

    :ok
  end

  # `:global` may have kept the other process: a node that did not answer in time has lost there.
  @impl true
  def lost(config, key, loser, winner) do
    name = name(config, key)

    if :global.whereis_name(name) == loser,
      do: :global.re_register_name(name, winner, &__MODULE__.resolve/3)

    :ok
  end

  @impl true
  def keeps_names?, do: true

  @impl true
  def decides?, do: true

  defp name(config, key), do: {Foundation.Cluster, config.name, key}

  @doc false
  # Called by `:global` on one node. The loser hears of it from its own replicator.
  def resolve({Foundation.Cluster, cluster, key}, one, other) do
    Enum.min_by([one, other], &{stamp(cluster, key, &1), node(&1)})
  end

  defp stamp(cluster, key, pid) do
    :erpc.call(node(pid), __MODULE__, :stamp_of, [cluster, key, pid], @ask_ms)
  catch
    # A node that does not answer has lost: an atom is greater than any number.
    :error, {:erpc, _reason} -> :unknown
  end

  @doc false
  def stamp_of(cluster, key, pid) do
    with {:ok, config} <- Config.fetch(cluster),
         {^pid, stamp, _value} <- Replica.get(config, key) do
      stamp
    else
      _none -> :unknown
    end
  end
end
