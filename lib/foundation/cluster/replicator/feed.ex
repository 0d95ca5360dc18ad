defmodule Foundation.Cluster.Replicator.Feed do
  @moduledoc false
  # Tells the other nodes of the claims of this node: changes as they happen, and a snapshot in
  # chunks for a node that asks. An op is the state of one name or member at the moment of sending.

  import Foundation.Cluster.Replicator.State, only: [put_peer: 2, with_peer: 3]

  alias Foundation.Cluster.{Peer, Replica}
  alias Foundation.Cluster.Replicator.State

  @chunk 500

  @doc "Tells all nodes of the present state of names and members, and watches their processes."
  @spec announce(State.t(), [Replica.item()]) :: State.t()
  def announce(state, items) do
    state = Enum.reduce(items, state, &track_item(&2, &1))
    tell(state, Enum.map(items, &op(state.config, &1)))
  end

  @doc "Tells all nodes that these processes are dead."
  @spec deaths(State.t(), [pid]) :: State.t()
  def deaths(state, pids),
    do: tell(%{state | owned: Map.drop(state.owned, pids)}, for(pid <- pids, do: {:dead, pid}))

  @doc "Tells one node of the present state of a name."
  @spec refresh(State.t(), Peer.t(), key :: term) :: boolean
  def refresh(state, peer, key),
    do: Peer.send(peer, {:ops, self(), [op(state.config, {:name, key})], :live})

  @doc """
  Watches a process of this node. One that holds nothing is watched until its death, so that it is
  watched once.
  """
  @spec track(State.t(), pid) :: State.t()
  def track(state, pid) when is_map_key(state.owned, pid), do: state

  def track(state, pid) do
    ref = :erlang.monitor(:process, pid, tag: :owner_down)
    %{state | owned: Map.put(state.owned, pid, ref)}
  end

  @doc "Begins a snapshot for a node. `pull` is the name that the node has given to it."
  @spec begin(State.t(), pid, pull :: reference) :: State.t()
  def begin(state, pid, pull) do
    items = for {_node, item} <- Replica.items(state.config, &(&1 == node())), do: item
    with_peer(state, pid, &chunk(state, %{&1 | feed: {:sync, pull, items}}))
  end

  @doc "Sends the next chunk of a snapshot, unless a later one has begun."
  @spec continue(State.t(), pid, pull :: reference) :: State.t()
  def continue(state, pid, pull) do
    with_peer(state, pid, fn
      %Peer{feed: {:sync, ^pull, _items}} = peer -> chunk(state, peer)
      peer -> peer
    end)
  end

  defp chunk(state, %Peer{feed: {:sync, pull, items}} = peer) do
    {chunk, rest} = Enum.split(items, @chunk)
    part = if rest == [], do: {:last, pull}, else: {:chunk, pull}

    if Peer.send(peer, {:ops, self(), Enum.map(chunk, &op(state.config, &1)), part}) do
      %{peer | feed: if(rest == [], do: :live, else: {:sync, pull, rest})}
    else
      %{peer | feed: :behind}
    end
  end

  defp track_item(state, {:member, _group, pid}), do: track(state, pid)

  defp track_item(state, {:name, key}) do
    case Replica.own(state.config, key) do
      nil -> state
      {pid, _stamp, _value} -> track(state, pid)
    end
  end

  defp op(config, {:name, key}), do: {:name, key, Replica.own(config, key)}

  defp op(config, {:member, group, pid}),
    do: {:member, group, pid, Replica.member(config, group, pid)}

  defp tell(state, ops) do
    for {_node, peer} <- state.peers, Peer.fed?(peer), reduce: state do
      state ->
        if Peer.send(peer, {:ops, self(), ops, :live}),
          do: state,
          else: put_peer(state, %{peer | feed: :behind})
    end
  end
end
