defmodule Foundation.Cluster.Replicator.Claims do
  @moduledoc false
  # Writes into the replica what other nodes tell, and decides between their claims and ours.

  import Foundation.Cluster.Replicator.State, only: [with_peer: 3]

  alias Foundation.Cluster.{Conflict, Peer, Replica}
  alias Foundation.Cluster.Replicator.State

  @type op ::
          {:name, key :: term, Replica.claim() | nil}
          | {:member, group :: term, pid, {:in, term} | nil}
          | {:dead, pid}

  @doc "Writes the ops of a node."
  @spec write(State.t(), node, [op]) :: State.t()
  def write(state, node, ops), do: Enum.reduce(ops, state, &apply_op(&2, node, &1))

  @doc "The items of a node that are here, its claims that do not stand included."
  @spec present(State.t(), node) :: MapSet.t(Replica.item())
  def present(state, node) do
    rivals = for {key, %{^node => _claim}} <- state.rivals, do: {:name, key}
    items = for {_node, item} <- Replica.items(state.config, &(&1 == node)), do: item
    MapSet.new(rivals ++ items)
  end

  @doc "Removes the items that the snapshot of a peer has not confirmed."
  @spec remove_stale(State.t(), Peer.t()) :: State.t()
  def remove_stale(state, peer), do: write(state, peer.node, Enum.map(peer.stale, &absent_op/1))

  defp absent_op({:name, key}), do: {:name, key, nil}
  defp absent_op({:member, group, pid}), do: {:member, group, pid, nil}

  @doc """
  Removes everything of a node. `:node`: the connection is down, and the node's processes count as
  dead. `:cluster`: the node has stopped the cluster.
  """
  @spec purge(State.t(), node, :node | :cluster) :: State.t()
  def purge(%{config: config} = state, node, :node) do
    for pid <- Replica.pids(config, node), do: Replica.remove_dead(config, pid)
    purged(state, node)
  end

  def purge(%{config: config} = state, node, :cluster) do
    for {_node, item} <- Replica.items(config, &(&1 == node)),
        do: Replica.remove_item(config, node, item)

    purged(state, node)
  end

  defp purged(state, node) do
    Enum.reduce(Map.keys(state.rivals), state, &settle(&2, &1, node, nil))
  end

  ## One op

  defp apply_op(state, node, {:name, key, claim}),
    do: state |> confirm(node, {:name, key}) |> settle(key, node, claim)

  defp apply_op(state, node, {:member, group, pid, member}) do
    Replica.put_member(state.config, group, pid, member)
    confirm(state, node, {:member, group, pid})
  end

  defp apply_op(state, node, {:dead, pid}) do
    keys = Replica.keys(state.config, pid)
    rival = for {key, %{^node => {^pid, _stamp, _value}}} <- state.rivals, do: key
    Replica.remove_dead(state.config, pid)
    Enum.reduce(keys ++ rival, state, &settle(&2, &1, node, nil))
  end

  defp confirm(state, node, item) do
    case state.peers[node] do
      %Peer{status: :syncing, pid: pid} ->
        with_peer(state, pid, &%{&1 | stale: MapSet.delete(&1.stale, item)})

      _synced ->
        state
    end
  end

  ## Which claim stands

  # `claim` is the present claim of `node` for a name.
  defp settle(%{config: config} = state, key, node, claim) do
    standing = Replica.get(config, key)
    claims = Map.get(state.rivals, key, %{})
    claims = if standing, do: Map.put(claims, node(elem(standing, 0)), standing), else: claims
    claims = if claim, do: Map.put(claims, node, claim), else: Map.delete(claims, node)
    winner = Conflict.winner(claims)

    case place(config, key, standing, winner) do
      :ok -> put_rivals(state, key, Map.drop(claims, [node(), winner && node(elem(winner, 0))]))
      # The table is full. The next change of the name tries again.
      :full -> put_rivals(state, key, Map.delete(claims, node()))
      # A process of this node has registered, or changed its value, meanwhile.
      :changed -> settle(state, key, node, claim)
    end
  end

  defp put_rivals(state, key, claims) when claims == %{},
    do: %{state | rivals: Map.delete(state.rivals, key)}

  defp put_rivals(state, key, claims), do: %{state | rivals: Map.put(state.rivals, key, claims)}

  defp place(_config, _key, same, same), do: :ok

  defp place(config, key, {pid, _, _} = old, {pid, _, _} = new),
    do: if(Replica.replace(config, key, old, new), do: :ok, else: :changed)

  defp place(config, key, standing, winner) do
    with :ok <- withdraw(config, key, standing, winner), do: put(config, key, winner)
  end

  defp withdraw(_config, _key, nil, _winner), do: :ok

  defp withdraw(config, key, {pid, _, _} = loser, {winner, _, _}) when node(pid) == node(),
    do: Conflict.lose(config, key, loser, winner)

  defp withdraw(config, key, {pid, _, _}, _winner), do: Replica.remove(config, key, pid)

  defp put(_config, _key, nil), do: :ok

  defp put(config, key, winner) do
    case Replica.put(config, key, winner) do
      :ok -> :ok
      {:error, :system_limit} -> :full
      # Another process has it, or this one was declared dead while it was written.
      {:error, _reason} -> :changed
    end
  end
end
