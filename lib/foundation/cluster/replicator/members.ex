defmodule Foundation.Cluster.Replicator.Members do
  @moduledoc false
  # Which nodes are members, and what is missing of them.

  import Foundation.Cluster.Replicator.State, only: [peer: 2, put_peer: 2, with_peer: 3]

  alias Foundation.Cluster.{Config, Conflict, Membership, Peer}
  alias Foundation.Cluster.Replicator.{Claims, State}
  alias Foundation.Registry
  alias Foundation.Registry.Monitor

  # How long the names of a node are kept while its replicator is being restarted.
  @restart_ms 10_000

  # For how many ticks a peer may be silent during a sync, at most.
  @patience_max 64

  @doc "Joins the scope, and meets the replicators in it."
  @spec join(State.t()) :: State.t()
  def join(state) do
    case Membership.join(state.config) do
      nil ->
        %{state | membership: nil}

      membership ->
        Enum.reduce(membership.known, %{state | membership: membership}, &discover(&2, &1))
    end
  end

  @doc "A node is connected, and may run the cluster: until it is known, names may be missing here."
  @spec expect(State.t(), node) :: State.t()
  def expect(state, node) do
    if is_map_key(state.peers, node) or node in Map.values(state.pending) do
      state
    else
      ref = Process.monitor({state.config.replicator, node})
      put_in(state.pending[ref], node)
    end
  end

  @doc "An expected node does not run the cluster, or is gone."
  @spec absent(State.t(), reference, term) :: State.t()
  def absent(state, ref, reason) do
    {node, pending} = Map.pop!(state.pending, ref)
    how = if reason == :noconnection, do: :node, else: :cluster
    %{state | pending: pending} |> Claims.purge(node, how) |> publish()
  end

  @doc "There is a replicator; what its node has is asked for if it is a new one."
  @spec discover(State.t(), pid) :: State.t()
  def discover(state, pid) when node(pid) == node(), do: state

  def discover(state, pid) do
    node = node(pid)

    case state.peers do
      %{^node => %Peer{pid: ^pid, status: status}} when status != :restarting ->
        state

      %{^node => old} ->
        Process.demonitor(old.monitor, [:flush])
        meet(state, %{peer_of(pid) | draining?: old.draining?})

      _unknown ->
        Conflict.execute(:node_up, %{cluster: state.config.name, node: node})
        meet(state, peer_of(pid))
    end
  end

  defp peer_of(pid), do: %Peer{node: node(pid), pid: pid, monitor: Process.monitor(pid)}

  defp meet(state, peer) do
    forget_deaths()
    introduce(state, peer)
    state |> settled(peer.node) |> put_peer(pull(state, peer)) |> publish()
  end

  # The node may be back after a loss of the connection. The registries' monitor has heard that its
  # processes are gone, and must not take what comes now for what it has heard of.
  defp forget_deaths do
    GenServer.call(Monitor, :sync, :infinity)
  catch
    # Its successor watches only what is here when it starts.
    :exit, {_reason, {GenServer, :call, _arguments}} -> :ok
  end

  @doc "Introduces this replicator to a peer."
  @spec introduce(State.t(), Peer.t()) :: boolean
  def introduce(state, peer),
    do: Peer.send(peer, {:hello, self(), Config.draining?(state.config)})

  defp ask(state, node) do
    message = {:who, self(), Config.draining?(state.config)}
    :erlang.send({state.config.replicator, node}, message, [:noconnect, :nosuspend])
  end

  # It is a peer now, and its status says what is missing.
  defp settled(state, node) do
    {of_node, pending} = Enum.split_with(state.pending, fn {_ref, pending} -> pending == node end)
    for {ref, _node} <- of_node, do: Process.demonitor(ref, [:flush])
    %{state | pending: Map.new(pending)}
  end

  @doc """
  Asks a peer for a snapshot. Entries of its node that the snapshot does not have are out of date.

  The snapshot of an earlier pull may still be on its way. Its end is not the end of this one.
  """
  @spec pull(State.t(), Peer.t()) :: Peer.t()
  def pull(state, peer) do
    pull = make_ref()
    Peer.send(peer, {:pull, self(), pull})
    stale = Claims.present(state, peer.node)
    %{peer | status: :syncing, pull: pull, stale: stale, silent: 0}
  end

  @doc "A part of a snapshot has been written."
  @spec received(State.t(), pid, part :: {:chunk | :last, reference} | :live) :: State.t()
  def received(state, _pid, :live), do: state

  def received(state, pid, {part, pull}) do
    case peer(state, pid) do
      %Peer{status: :syncing, pull: ^pull} = peer -> received_of(state, peer, part)
      _of_an_earlier_pull -> state
    end
  end

  defp received_of(state, peer, :chunk) do
    Peer.send(peer, {:more, self(), peer.pull})
    put_peer(state, %{peer | silent: 0})
  end

  defp received_of(state, peer, :last) do
    state = Claims.remove_stale(state, peer)
    Conflict.execute(:synced, %{cluster: state.config.name, node: peer.node})

    state
    |> with_peer(peer.pid, &%{&1 | status: :synced, pull: nil, stale: MapSet.new()})
    |> publish()
  end

  @doc "The process of a peer has ended."
  @spec peer_down(State.t(), Peer.t(), term) :: State.t()
  def peer_down(state, peer, :noconnection), do: leave(state, peer.node, :node)

  def peer_down(state, peer, _reason) do
    Process.send_after(self(), {:expire, peer.pid}, @restart_ms)
    state |> put_peer(%{peer | status: :restarting, feed: :idle}) |> publish()
  end

  @doc "A peer has had its time to come back."
  @spec expire(State.t(), pid) :: State.t()
  def expire(state, pid) do
    case peer(state, pid) do
      %Peer{status: :restarting} -> leave(state, node(pid), :cluster)
      _back_or_gone -> state
    end
  end

  @doc "A node is gone, or has stopped the cluster."
  @spec leave(State.t(), node, :node | :cluster) :: State.t()
  def leave(state, node, how) do
    {peer, peers} = Map.pop(state.peers, node)

    if peer do
      Process.demonitor(peer.monitor, [:flush])
      Conflict.execute(:node_down, %{cluster: state.config.name, node: node})
    end

    %{state | peers: peers} |> Claims.purge(node, how) |> publish()
  end

  @doc "A peer drains, or does not."
  @spec put_draining(State.t(), pid, boolean) :: State.t()
  def put_draining(state, pid, draining?),
    do: state |> with_peer(pid, &%{&1 | draining?: draining?}) |> publish()

  @doc "Asks again for what may have got lost."
  @spec tick(State.t()) :: State.t()
  def tick(state) do
    for {_ref, node} <- state.pending, do: ask(state, node)
    state = Enum.reduce(Map.values(state.peers), state, &put_peer(&2, tick(&2, &1)))
    if state.membership == nil, do: join(state), else: state
  end

  defp tick(state, %Peer{status: :restarting} = peer) do
    ask(state, peer.node)
    peer
  end

  # A slow node would never get to the end of a snapshot that is begun again too soon.
  defp tick(state, %Peer{status: :syncing, silent: silent, patience: silent} = peer) do
    introduce(state, peer)
    %{pull(state, feed_again(peer)) | patience: min(2 * silent, @patience_max)}
  end

  defp tick(_state, %Peer{status: :syncing} = peer),
    do: feed_again(%{peer | silent: peer.silent + 1})

  defp tick(_state, peer), do: feed_again(peer)

  defp feed_again(peer) do
    if peer.feed == :behind and Peer.send(peer, {:behind, self()}),
      do: %{peer | feed: :idle},
      else: peer
  end

  @doc "Makes the members and the state known to the callers of this node."
  @spec publish(State.t()) :: State.t()
  def publish(%{config: config} = state) do
    pending = Map.values(state.pending)
    syncing? = pending != [] or Enum.any?(state.peers, fn {_node, p} -> p.status != :synced end)
    # A predecessor's members that have not answered yet are members still.
    assumed = for node <- state.assumed, node in pending, do: node
    nodes = Enum.uniq([node() | Map.keys(state.peers)] ++ assumed)
    draining = for {node, %{draining?: true}} <- state.peers, do: node
    homes = if Config.draining?(config), do: nodes -- [node() | draining], else: nodes -- draining
    members = {Enum.sort(nodes), Enum.sort(homes)}

    if known(config) != members,
      do: Registry.put_meta(config.name, :foundation_cluster, members)

    Config.put_syncing(config, syncing?)
    state
  end

  @doc "The members, and those of them that may be a home, both sorted."
  @spec known(Config.t()) :: {[node], [node]}
  def known(config) do
    case Registry.meta(config.name, :foundation_cluster) do
      {:ok, members} -> members
      :error -> {[node()], [node()]}
    end
  end
end
