defmodule Foundation.Cluster.Replicator do
  @moduledoc false
  # Announces the claims of this node to the replicators of the other nodes, and writes theirs into
  # the replica.
  #
  #     {:hello, pid, draining?}   a replicator introduces itself
  #     {:who, pid, draining?}     the same, and asks for an answer
  #     {:bye, pid}                the cluster has been stopped there
  #     {:pull, pid}               asks for all claims of the receiver's node, from the beginning
  #     {:more, pid}               asks for the next chunk
  #     {:ops, pid, ops, part}     claims: `:live` changes, a `:chunk` of the snapshot, or the `:last`
  #     {:behind, pid}             the sender could not tell of a change: pull again
  #     {:refresh, pid, key}       asks for the present state of one name
  #
  # An op is the state of one name or member on the sender's node at the moment of sending. It can
  # be repeated, and a new snapshot repairs a loss. That is enough, because a node is the only
  # writer of its claims, and messages from one process to another keep their order.
  #
  # Nothing here is needed to keep the names of this node: they are in the table, which outlives
  # this process. A new replicator reads them there and pulls the rest.

  use GenServer

  alias Foundation.{Ancestors, ExitReason, Registry, RetryingCall}
  alias Foundation.Cluster.{Config, Conflict, Membership, Peer, Replica}

  @chunk 500
  @batch 500

  # How often what may have got lost is asked for again.
  @tick_ms 500

  # How long the names of a node are kept while its replicator is being restarted.
  @restart_ms 10_000

  # Beyond so many unannounced changes a caller waits for its own.
  @backlog_max 5_000

  defstruct [
    :config,
    :membership,
    :ancestors,
    # The nodes that the predecessor knew as members.
    :assumed,
    peers: %{},
    # Nodes that may run the cluster, by the monitor that tells if they do not.
    pending: %{},
    # Claims of other nodes for names that an older claim has: by key, then by node.
    rivals: %{},
    # Monitors of the processes of this node that have had a name or a group.
    owned: %{}
  ]

  def start_link(config), do: GenServer.start_link(__MODULE__, config, name: config.replicator)

  ## For callers

  @doc "Announces a name that the caller has changed in the table."
  @spec changed(Config.t(), item :: tuple) :: :ok
  def changed(config, item) do
    # The mailbox must not grow faster than it is worked off.
    if Config.enter_backlog(config) > @backlog_max do
      Config.leave_backlog(config, 1)
      call(config, {:changed, item})
    else
      # If there is no replicator, the one that starts next finds the change in the table.
      GenServer.cast(config.replicator, {:changed, item})
    end
  end

  @doc "Calls the replicator, or its successor if it is killed over it."
  @spec call(Config.t(), term) :: term
  def call(config, request), do: RetryingCall.call(config.replicator, request)

  @doc "The members of the cluster, and those of them that may be a home, both sorted."
  @spec members(Config.t()) :: {[node], [node]}
  def members(config) do
    case Registry.meta(config.name, :foundation_cluster) do
      {:ok, members} -> members
      :error -> {[node()], [node()]}
    end
  end

  ## Starting and ending

  @impl true
  def init(config) do
    Process.flag(:trap_exit, true)
    Config.reset_backlog(config)
    :ok = :net_kernel.monitor_nodes(true)
    {assumed, _homes} = members(config)

    state = %__MODULE__{config: config, ancestors: Ancestors.watch(), assumed: assumed}
    state = Enum.reduce(Replica.pids(config, node()), state, &track(&2, &1))
    # The predecessor's entries of nodes that are gone. The other nodes send theirs again.
    state =
      Enum.reduce(Replica.nodes(config) -- [node() | Node.list()], state, &purge(&2, &1, :node))

    state = Enum.reduce(Node.list(), state, &expect(&2, &1))
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, state |> join() |> publish()}
  end

  @impl true
  def terminate(reason, state) do
    if ExitReason.orderly?(reason) and not Ancestors.crashed?(state.ancestors) do
      for {_node, peer} <- state.peers, do: Peer.send(peer, {:bye, self()})
      Config.withdraw(state.config)
    end
  end

  ## Requests of this node

  @impl true
  def handle_call({:changed, item}, _from, state), do: {:reply, :ok, announce(state, [item])}

  # Done here, so that a caller which is killed leaves no entry that nobody announces.
  def handle_call({:register_for, pid, key, entry}, _from, %{config: config} = state) do
    registered = Registry.register_for(config.name, pid, key, entry)
    {:reply, registered, announce(state, [{:name, key}])}
  end

  # The same for a change of another process's name (`Foundation.AgentRegistry`).
  def handle_call({:unregister_for, pid, key}, _from, %{config: config} = state) do
    found? = match?({^pid, _stamp, _value}, Replica.own(config, key))
    Registry.unregister_for(config.name, pid, key)
    {:reply, found?, announce(state, [{:name, key}])}
  end

  def handle_call({:refresh, key}, _from, state) do
    with {pid, _stamp, _value} <- Replica.get(state.config, key),
         %Peer{} = peer <- state.peers[node(pid)] do
      Peer.send(peer, {:refresh, self(), key})
    end

    {:reply, :ok, state}
  end

  def handle_call(:drain, _from, state) do
    Config.put_draining(state.config)
    for {_node, peer} <- state.peers, do: Peer.send(peer, {:hello, self(), true})
    {:reply, :ok, publish(state)}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:changed, item}, state) do
    items = [item | more_items(@batch)]
    Config.leave_backlog(state.config, length(items))
    {:noreply, announce(state, Enum.uniq(items))}
  end

  def handle_cast(_unknown, state), do: {:noreply, state}

  defp more_items(0), do: []

  defp more_items(limit) do
    receive do
      {:"$gen_cast", {:changed, item}} -> [item | more_items(limit - 1)]
    after
      0 -> []
    end
  end

  ## Messages of other replicators

  @impl true
  def handle_info({:hello, pid, draining?}, state) when is_pid(pid),
    do: {:noreply, state |> discover(pid) |> put_draining(pid, draining?)}

  def handle_info({:who, pid, draining?}, state) when is_pid(pid) do
    state = state |> discover(pid) |> put_draining(pid, draining?)
    with %Peer{} = peer <- peer(state, pid), do: introduce(state, peer)
    {:noreply, state}
  end

  def handle_info({:bye, pid}, state) when is_pid(pid),
    do: {:noreply, if(peer(state, pid), do: leave(state, node(pid), :cluster), else: state)}

  def handle_info({:pull, pid}, state) when is_pid(pid) do
    items = for {_node, item} <- Replica.items(state.config, &(&1 == node())), do: item
    {:noreply, with_peer(state, pid, &send_chunk(state, %{&1 | feed: {:sync, items}}))}
  end

  def handle_info({:more, pid}, state) when is_pid(pid),
    do: {:noreply, with_peer(state, pid, &send_chunk(state, &1))}

  def handle_info({:behind, pid}, state) when is_pid(pid),
    do: {:noreply, state |> with_peer(pid, &pull(state, &1)) |> publish()}

  def handle_info({:refresh, pid, key}, state) when is_pid(pid) do
    with %Peer{} = peer <- peer(state, pid),
         do: Peer.send(peer, {:ops, self(), [op(state.config, {:name, key})], :live})

    {:noreply, state}
  end

  def handle_info({:ops, pid, ops, part}, state) when is_pid(pid) do
    case peer(state, pid) do
      nil ->
        {:noreply, state}

      _peer ->
        {:noreply, ops |> Enum.reduce(state, &apply_op(&2, node(pid), &1)) |> part(pid, part)}
    end
  end

  ## Deaths, nodes and time

  def handle_info({:owner_down, _ref, :process, pid, _reason}, state) do
    pids = [pid | more_deaths(@batch)]
    ops = for pid <- pids, do: {:dead, pid}
    {:noreply, tell(%{state | owned: Map.drop(state.owned, pids)}, ops)}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, state) do
    peer = Enum.find(Map.values(state.peers), &(&1.monitor == ref))

    cond do
      peer != nil -> {:noreply, peer_down(state, peer, reason)}
      is_map_key(state.pending, ref) -> {:noreply, absent(state, ref, reason)}
      state.membership != nil and state.membership.monitor == ref -> {:noreply, join(state)}
      true -> {:noreply, %{state | ancestors: Ancestors.down(state.ancestors, ref, reason)}}
    end
  end

  def handle_info({:nodeup, node}, state), do: {:noreply, state |> expect(node) |> publish()}
  def handle_info({:nodedown, node}, state), do: {:noreply, leave(state, node, :node)}

  # Only if it has not come back.
  def handle_info({:expire, pid}, state) do
    case peer(state, pid) do
      %Peer{status: :restarting} -> {:noreply, leave(state, node(pid), :cluster)}
      _back_or_gone -> {:noreply, state}
    end
  end

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    for {_ref, node} <- state.pending, do: ask(state, node)
    state = Enum.reduce(Map.values(state.peers), state, &tick(&2, &1))
    {:noreply, if(state.membership == nil, do: join(state), else: state)}
  end

  # Sent by somebody: of its supervisor GenServer itself takes care.
  def handle_info({:EXIT, _from, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}

  def handle_info(message, state) do
    case Membership.joined(state.membership, message) do
      nil -> {:noreply, state}
      pids -> {:noreply, Enum.reduce(pids, state, &discover(&2, &1))}
    end
  end

  defp more_deaths(0), do: []

  defp more_deaths(limit) do
    receive do
      {:owner_down, _ref, :process, pid, _reason} -> [pid | more_deaths(limit - 1)]
    after
      0 -> []
    end
  end

  defp tick(state, peer) do
    cond do
      peer.status == :restarting -> ask(state, peer.node)
      peer.status == :syncing and not peer.heard? -> introduce(state, peer)
      true -> :ok
    end

    peer =
      cond do
        peer.status == :syncing and not peer.heard? -> pull(state, peer)
        peer.feed == :behind and Peer.send(peer, {:behind, self()}) -> %{peer | feed: :idle}
        true -> peer
      end

    put_peer(state, %{peer | heard?: false})
  end

  ## Membership

  defp join(state) do
    case Membership.join(state.config) do
      nil ->
        %{state | membership: nil}

      membership ->
        Enum.reduce(membership.known, %{state | membership: membership}, &discover(&2, &1))
    end
  end

  # A node is connected, and may run the cluster: until it is known, names may be missing here.
  defp expect(state, node) do
    if is_map_key(state.peers, node) or node in Map.values(state.pending) do
      state
    else
      ref = Process.monitor({state.config.replicator, node})
      put_in(state.pending[ref], node)
    end
  end

  defp absent(state, ref, reason) do
    {node, pending} = Map.pop!(state.pending, ref)
    how = if reason == :noconnection, do: :node, else: :cluster
    %{state | pending: pending} |> purge(node, how) |> publish()
  end

  defp discover(state, pid) when node(pid) == node(), do: state

  defp discover(state, pid) do
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
    introduce(state, peer)
    state |> settled(peer.node) |> put_peer(pull(state, peer)) |> publish()
  end

  defp introduce(state, peer),
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

  # Entries of the node that its snapshot does not have are out of date.
  defp pull(state, peer) do
    Peer.send(peer, {:pull, self()})
    %{peer | status: :syncing, stale: present(state, peer.node), heard?: true}
  end

  defp present(state, node) do
    rivals = for {key, %{^node => _claim}} <- state.rivals, do: {:name, key}
    items = for {_node, item} <- Replica.items(state.config, &(&1 == node)), do: item
    MapSet.new(rivals ++ items)
  end

  defp peer_down(state, peer, :noconnection), do: leave(state, peer.node, :node)

  defp peer_down(state, peer, _reason) do
    Process.send_after(self(), {:expire, peer.pid}, @restart_ms)
    state |> put_peer(%{peer | status: :restarting, feed: :idle}) |> publish()
  end

  defp leave(state, node, how) do
    {peer, peers} = Map.pop(state.peers, node)

    if peer do
      Process.demonitor(peer.monitor, [:flush])
      Conflict.execute(:node_down, %{cluster: state.config.name, node: node})
    end

    %{state | peers: peers} |> purge(node, how) |> publish()
  end

  defp put_draining(state, pid, draining?),
    do: state |> with_peer(pid, &%{&1 | draining?: draining?}) |> publish()

  defp peer(state, pid) do
    case state.peers[node(pid)] do
      %Peer{pid: ^pid} = peer -> peer
      _none_or_another -> nil
    end
  end

  defp with_peer(state, pid, fun) do
    case peer(state, pid) do
      nil -> state
      peer -> put_peer(state, fun.(peer))
    end
  end

  defp put_peer(state, peer), do: %{state | peers: Map.put(state.peers, peer.node, peer)}

  defp publish(%{config: config} = state) do
    pending = Map.values(state.pending)
    syncing? = pending != [] or Enum.any?(state.peers, fn {_node, p} -> p.status != :synced end)
    # A predecessor's members that have not answered yet are members still.
    assumed = for node <- state.assumed, node in pending, do: node
    nodes = Enum.uniq([node() | Map.keys(state.peers)] ++ assumed)
    draining = for {node, %{draining?: true}} <- state.peers, do: node
    homes = if Config.draining?(config), do: nodes -- [node() | draining], else: nodes -- draining
    members = {Enum.sort(nodes), Enum.sort(homes)}

    if members(config) != members,
      do: Registry.put_meta(config.name, :foundation_cluster, members)

    Config.put_syncing(config, syncing?)
    state
  end

  ## Telling others

  defp announce(state, items) do
    state = Enum.reduce(items, state, &track_item(&2, &1))
    tell(state, Enum.map(items, &op(state.config, &1)))
  end

  defp track_item(state, {:member, _group, pid}), do: track(state, pid)

  defp track_item(state, {:name, key}) do
    case Replica.own(state.config, key) do
      nil -> state
      {pid, _stamp, _value} -> track(state, pid)
    end
  end

  # An owner that holds nothing is watched until its death, so that it is watched once.
  defp track(state, pid) when is_map_key(state.owned, pid), do: state

  defp track(state, pid) do
    ref = :erlang.monitor(:process, pid, tag: :owner_down)
    %{state | owned: Map.put(state.owned, pid, ref)}
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

  defp send_chunk(state, %Peer{feed: {:sync, items}} = peer) do
    {chunk, rest} = Enum.split(items, @chunk)
    part = if rest == [], do: :last, else: :chunk

    if Peer.send(peer, {:ops, self(), Enum.map(chunk, &op(state.config, &1)), part}) do
      %{peer | feed: if(rest == [], do: :live, else: {:sync, rest})}
    else
      %{peer | feed: :behind}
    end
  end

  defp send_chunk(_state, peer), do: peer

  ## Writing what others tell

  defp part(state, _pid, :live), do: state

  defp part(state, pid, :chunk) do
    with_peer(state, pid, fn peer ->
      Peer.send(peer, {:more, self()})
      %{peer | heard?: true}
    end)
  end

  defp part(state, pid, :last) do
    stale = peer(state, pid).stale
    state = Enum.reduce(stale, state, &apply_op(&2, node(pid), absent_op(&1)))
    Conflict.execute(:synced, %{cluster: state.config.name, node: node(pid)})

    state
    |> with_peer(pid, &%{&1 | status: :synced, stale: MapSet.new()})
    |> publish()
  end

  defp absent_op({:name, key}), do: {:name, key, nil}
  defp absent_op({:member, group, pid}), do: {:member, group, pid, nil}

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
    update_in(state.peers[node], fn
      %Peer{status: :syncing} = peer -> %{peer | stale: MapSet.delete(peer.stale, item)}
      peer -> peer
    end)
  end

  # `claim` is the present claim of `node` for a name.
  defp settle(%{config: config} = state, key, node, claim) do
    standing = Replica.get(config, key)
    claims = Map.get(state.rivals, key, %{})
    claims = if standing, do: Map.put(claims, node(elem(standing, 0)), standing), else: claims
    claims = if claim, do: Map.put(claims, node, claim), else: Map.delete(claims, node)
    winner = Conflict.winner(claims)

    if place(config, key, standing, winner),
      do: settled(state, key, standing, winner, claims),
      # A process of this node has registered, or changed its value, meanwhile.
      else: settle(state, key, node, claim)
  end

  defp place(_config, _key, same, same), do: true

  defp place(config, key, {pid, _, _} = old, {pid, _, _} = new),
    do: Replica.replace(config, key, old, new)

  defp place(config, key, standing, winner) do
    with {pid, _stamp, _value} <- standing, do: Replica.remove(config, key, pid)
    winner == nil or Replica.put(config, key, winner) == :ok
  end

  defp settled(state, key, standing, winner, claims) do
    claims = if winner, do: Map.delete(claims, node(elem(winner, 0))), else: claims
    state = put_rivals(state, key, Map.delete(claims, node()))
    if lost?(standing, winner), do: lose(state, key, standing, winner), else: state
  end

  defp put_rivals(state, key, claims) when claims == %{},
    do: %{state | rivals: Map.delete(state.rivals, key)}

  defp put_rivals(state, key, claims), do: %{state | rivals: Map.put(state.rivals, key, claims)}

  defp lost?({pid, _, _}, {winner, _, _}), do: node(pid) == node() and pid != winner
  defp lost?(_standing, _winner), do: false

  defp lose(state, key, {loser, _, _}, {winner, _, _}) do
    Conflict.lost(state.config, key, loser, winner)
    announce(state, [{:name, key}])
  end

  # `:node`: the connection is down, and the node's processes count as dead. `:cluster`: the node
  # has stopped the cluster.
  defp purge(%{config: config} = state, node, :node) do
    for pid <- Replica.pids(config, node), do: Replica.remove_dead(config, pid)
    purged(state, node)
  end

  defp purge(%{config: config} = state, node, :cluster) do
    for {_node, item} <- Replica.items(config, &(&1 == node)),
        do: Replica.remove_item(config, node, item)

    purged(state, node)
  end

  defp purged(state, node) do
    Enum.reduce(Map.keys(state.rivals), state, &settle(&2, &1, node, nil))
  end
end
