defmodule Foundation.Cluster.Replicator do
  @moduledoc false
  # Announces the claims of this node to the replicators of the other nodes, and writes theirs into
  # the replica.
  #
  #     {:hello, pid, draining?}   a replicator introduces itself
  #     {:who, pid, draining?}     the same, and asks for an answer
  #     {:bye, pid}                the cluster has been stopped there
  #     {:pull, pid, pull}         asks for all claims of the receiver's node; `pull` is a reference
  #     {:more, pid, pull}         asks for the next chunk
  #     {:ops, pid, ops, part}     claims: `:live` changes, or a `{:chunk, pull}` or the
  #                                `{:last, pull}` of a snapshot
  #     {:behind, pid}             the sender could not tell of a change: pull again
  #     {:refresh, pid, key}       asks for the present state of one name
  #
  # An op is the state of one name or member on the sender's node at the moment of sending. It can
  # be repeated, and a new snapshot repairs a loss. That is enough, because a node is the only
  # writer of its claims, and messages from one process to another keep their order.
  #
  # Nothing here is needed to keep the names of this node: they are in the table, which outlives
  # this process. A new replicator reads them there and pulls the rest.

  # An orderly stop gives names back to the engine, which may ask all nodes for each.
  use GenServer, shutdown: 30_000

  alias Foundation.{Ancestors, ExitReason, Registry, RetryingCall}
  alias Foundation.Cluster.{Config, Membership, Peer, Replica}
  alias Foundation.Cluster.Replicator.{Claims, Feed, Members, State}

  import Foundation.Cluster.Replicator.State, only: [peer: 2, with_peer: 3]

  # How many messages of one kind are handled together.
  @batch 500

  # How often what may have got lost is asked for again.
  @tick_ms 500

  # Beyond so many unannounced changes a caller waits for its own.
  @backlog_max 5_000

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
  defdelegate members(config), to: Members, as: :known

  ## Starting and ending

  @impl true
  def init(config) do
    Process.flag(:trap_exit, true)
    Config.reset_backlog(config)
    :ok = :net_kernel.monitor_nodes(true)
    {assumed, _homes} = Members.known(config)

    state = %State{config: config, ancestors: Ancestors.watch(), assumed: assumed}
    state = Enum.reduce(Replica.pids(config, node()), state, &Feed.track(&2, &1))
    # The predecessor's entries of nodes that are gone. The other nodes send theirs again.
    state =
      Enum.reduce(
        Replica.nodes(config) -- [node() | Node.list()],
        state,
        &Claims.purge(&2, &1, :node)
      )

    state = Enum.reduce(Node.list(), state, &Members.expect(&2, &1))
    Process.send_after(self(), :tick, @tick_ms)
    {:ok, state |> Members.join() |> Members.publish()}
  end

  @impl true
  def terminate(reason, state) do
    if ExitReason.orderly?(reason) and not Ancestors.crashed?(state.ancestors) do
      for {_node, peer} <- state.peers, do: Peer.send(peer, {:bye, self()})
      # Nothing can register from here on, while the names are given back.
      Config.withdraw(state.config)
      release(state.config)
    end
  end

  # The processes live on, and their names are free.
  defp release(config) do
    for {key, pid, _value} <- Registry.stream(config.name),
        node(pid) == node(),
        do: config.backend.release(config, key, pid)
  end

  ## Requests of this node

  @impl true
  def handle_call({:changed, item}, _from, state), do: {:reply, :ok, Feed.announce(state, [item])}

  # Done here, so that a caller which is killed leaves no entry that nobody announces.
  def handle_call({:register_for, pid, key, entry}, _from, %{config: config} = state) do
    registered = Registry.register_for(config.name, pid, key, entry)
    {:reply, registered, Feed.announce(state, [{:name, key}])}
  end

  # The same for a change of another process's name (`Foundation.AgentRegistry`).
  def handle_call({:unregister_for, pid, key}, _from, %{config: config} = state) do
    found? = match?({^pid, _stamp, _value}, Replica.own(config, key))
    Registry.unregister_for(config.name, pid, key)
    {:reply, found?, Feed.announce(state, [{:name, key}])}
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
    {:reply, :ok, Members.publish(state)}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:changed, item}, state) do
    items = [item | more_items(@batch)]
    Config.leave_backlog(state.config, length(items))
    {:noreply, Feed.announce(state, Enum.uniq(items))}
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
    do: {:noreply, state |> Members.discover(pid) |> Members.put_draining(pid, draining?)}

  def handle_info({:who, pid, draining?}, state) when is_pid(pid) do
    state = state |> Members.discover(pid) |> Members.put_draining(pid, draining?)
    with %Peer{} = peer <- peer(state, pid), do: Members.introduce(state, peer)
    {:noreply, state}
  end

  def handle_info({:bye, pid}, state) when is_pid(pid),
    do:
      {:noreply, if(peer(state, pid), do: Members.leave(state, node(pid), :cluster), else: state)}

  def handle_info({:pull, pid, pull}, state) when is_pid(pid),
    do: {:noreply, Feed.begin(state, pid, pull)}

  def handle_info({:more, pid, pull}, state) when is_pid(pid),
    do: {:noreply, Feed.continue(state, pid, pull)}

  def handle_info({:behind, pid}, state) when is_pid(pid) do
    {:noreply, state |> with_peer(pid, &Members.pull(state, &1)) |> Members.publish()}
  end

  def handle_info({:refresh, pid, key}, state) when is_pid(pid) do
    with %Peer{} = peer <- peer(state, pid), do: Feed.refresh(state, peer, key)
    {:noreply, state}
  end

  def handle_info({:ops, pid, ops, part}, state) when is_pid(pid) do
    case peer(state, pid) do
      nil -> {:noreply, state}
      peer -> {:noreply, state |> Claims.write(peer.node, ops) |> Members.received(pid, part)}
    end
  end

  ## Deaths, nodes and time

  def handle_info({:owner_down, _ref, :process, pid, _reason}, state) do
    pids = [pid | more_deaths(@batch)]
    {:noreply, Feed.deaths(state, pids)}
  end

  def handle_info({:DOWN, ref, :process, _pid, reason}, state) do
    peer = Enum.find(Map.values(state.peers), &(&1.monitor == ref))

    cond do
      peer != nil ->
        {:noreply, Members.peer_down(state, peer, reason)}

      is_map_key(state.pending, ref) ->
        {:noreply, Members.absent(state, ref, reason)}

      state.membership != nil and state.membership.monitor == ref ->
        {:noreply, Members.join(state)}

      true ->
        {:noreply, %{state | ancestors: Ancestors.down(state.ancestors, ref, reason)}}
    end
  end

  def handle_info({:nodeup, node}, state),
    do: {:noreply, state |> Members.expect(node) |> Members.publish()}

  def handle_info({:nodedown, node}, state), do: {:noreply, Members.leave(state, node, :node)}

  def handle_info({:expire, pid}, state) when is_pid(pid),
    do: {:noreply, Members.expire(state, pid)}

  def handle_info(:tick, state) do
    Process.send_after(self(), :tick, @tick_ms)
    {:noreply, Members.tick(state)}
  end

  # Sent by somebody: of its supervisor GenServer itself takes care.
  def handle_info({:EXIT, _from, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}

  def handle_info(message, state) do
    case Membership.joined(state.membership, message) do
      nil -> {:noreply, state}
      pids -> {:noreply, Enum.reduce(pids, state, &Members.discover(&2, &1))}
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
end
