Code.require_file("support/peers.exs", __DIR__)

defmodule Bench.Cluster do
  @moduledoc false
  # Names and groups over three nodes against what OTP has for them. This VM is one of the nodes.

  alias Bench.{Peers, Row}
  alias Foundation.Cluster

  # A registration with `:global` takes a lock on all nodes, a thousand times as long as ours.
  @globals 200

  # A node is started for each round, and the names are registered on it.
  @down_rounds 5
  @down_globals 2_500

  def rows do
    [
      %Row{
        name: :cluster_whereis,
        what: "find a name of another node",
        theirs: ":global.whereis_name/1",
        sizes: [10_000],
        quick: [200],
        target: {:at_least, 3},
        run: &whereis/2
      },
      %Row{
        name: :cluster_register,
        what: "register a name, until three nodes have it",
        theirs: ":global.register_name/2",
        sizes: [10_000],
        quick: [200],
        target: {:at_least, 20},
        run: &register/2
      },
      %Row{
        name: :cluster_down,
        what: "a node goes: a name, until none of it is found",
        theirs: ":global with 2,500 names",
        sizes: [50_000],
        quick: [500],
        target: {:at_least, 3},
        run: &down/2
      },
      %Row{
        name: :cluster_broadcast,
        what: "send to a group on three nodes: the sender",
        theirs: "send/2 to :pg.get_members/2",
        sizes: [10_000],
        quick: [300],
        target: {:at_least, 3},
        run: &broadcast/2
      }
    ]
  end

  defp with_peers(count, fun) do
    Peers.distribute()
    peers = Peers.start(count)
    # Only nodes that `:global` knows take part in its registrations.
    for node <- [node() | Enum.map(peers, &elem(&1, 1))], do: :erpc.call(node, :global, :sync, [])

    try do
      fun.(for {_peer, node} <- peers, do: node)
    after
      for {peer, _node} <- peers, do: :peer.stop(peer)
    end
  end

  defp with_cluster(name, nodes, fun) do
    Peers.start_cluster(name, [node() | nodes])

    try do
      fun.()
    after
      Bench.ClusterNode.stop_cluster(name)
    end
  end

  ## Finding

  # Each name has a process of its own.
  defp whereis(size, context) do
    with_peers(1, fn [node] ->
      with_cluster(Bench.Cluster.Whereis, [node], fn ->
        whereis(size, context, node, Bench.Cluster.Whereis)
      end)
    end)
  end

  defp whereis(size, context, node, cluster) do
    keys = for n <- 1..size, do: {:name, n}
    Peers.on(node, :names, [cluster, keys])
    Peers.on(node, :global_names, [keys])
    Bench.spin_until(fn -> Cluster.count(cluster) == size end)

    for key <- keys do
      Bench.check!("node", node(Cluster.whereis_name({cluster, key})), node)
      Bench.check!("node", node(:global.whereis_name(key)), node)
    end

    Bench.with_rounds(keys, context, fn keys ->
      Bench.pinned(fn ->
        Bench.pair(
          context,
          &Bench.each(keys.(&1), fn key -> Cluster.whereis_name({cluster, key}) end),
          &Bench.each(keys.(&1), fn key -> :global.whereis_name(key) end)
        )
      end)
    end)
  end

  ## Registering

  defp register(size, context) do
    with_peers(2, fn nodes ->
      with_cluster(Bench.Cluster.Register, nodes, fn ->
        register(size, context, nodes, Bench.Cluster.Register)
      end)
    end)
  end

  defp register(size, context, nodes, cluster) do
    counts = fn ->
      for node <- [node() | nodes], do: :erpc.call(node, Cluster, :count, [cluster])
    end

    ours = fn round ->
      keys = for n <- 1..size, do: {round, n}

      taken =
        Bench.time(fn ->
          for key <- keys, do: {:ok, _owner} = Cluster.register(cluster, key, nil)
          Bench.spin_until(fn -> counts.() == [size, size, size] end)
        end)

      for key <- keys, do: :ok = Cluster.unregister(cluster, key)
      Bench.spin_until(fn -> counts.() == [0, 0, 0] end)
      taken / size
    end

    theirs = fn round ->
      names = min(size, @globals)
      pids = for _n <- 1..names, do: spawn(fn -> Process.sleep(:infinity) end)
      named = Enum.with_index(pids, fn pid, n -> {{round, n}, pid} end)

      taken =
        Bench.time(fn ->
          for {name, pid} <- named, do: :yes = :global.register_name(name, pid)
        end)

      for {name, pid} <- named,
          node <- nodes,
          do: Bench.check!("name", :erpc.call(node, :global, :whereis_name, [name]), pid)

      for pid <- pids, do: Process.exit(pid, :kill)
      taken / names
    end

    Bench.pinned(fn -> Bench.pair(context, ours, theirs) end)
  end

  ## A node goes

  defp down(size, context) do
    Peers.distribute()
    context = %{context | rounds: min(context.rounds, @down_rounds)}
    globals = min(size, @down_globals)

    ours = fn round ->
      cluster = :"#{Bench.Cluster.Down}_#{round}"
      {peer, node} = Peers.start()
      Peers.start_cluster(cluster, [node(), node])
      Peers.on(node, :names, [cluster, Enum.to_list(1..size)])
      Bench.spin_until(fn -> Cluster.count(cluster) == size end)
      taken = Bench.time(fn -> stop(peer, fn -> Cluster.count(cluster) == 0 end) end)
      Bench.check!("name", Cluster.lookup(cluster, size), [])
      Bench.ClusterNode.stop_cluster(cluster)
      taken / size
    end

    theirs = fn round ->
      {peer, node} = Peers.start()
      :ok = :global.sync()
      names = for n <- 1..globals, do: {round, n}
      Peers.on(node, :global_names, [names])
      Bench.check!("name", node(:global.whereis_name({round, 1})), node)
      found? = fn name -> :global.whereis_name(name) != :undefined end
      taken = Bench.time(fn -> stop(peer, fn -> not Enum.any?(names, found?) end) end)
      taken / globals
    end

    Bench.pair(context, ours, theirs)
  end

  # `:peer.stop/1` waits for the end of the node.
  defp stop(peer, gone?) do
    spawn(fn -> :peer.stop(peer) end)
    Bench.spin_until(gone?)
  end

  ## Sending to a group

  defp broadcast(size, context) do
    with_peers(2, fn nodes ->
      with_cluster(Bench.Cluster.Broadcast, nodes, fn ->
        broadcast(size, context, [node() | nodes], Bench.Cluster.Broadcast)
      end)
    end)
  end

  defp broadcast(size, context, nodes, cluster) do
    scope = Bench.Cluster.Members
    share = div(size, length(nodes))
    total = share * length(nodes)
    for node <- nodes, do: Peers.on(node, :start_scope, [scope])
    pids = for node <- nodes, do: Peers.on(node, :members, [cluster, scope, share])
    Bench.spin_until(fn -> length(Cluster.members(cluster, :group)) == total end)
    Bench.spin_until(fn -> length(:pg.get_members(scope, :group)) == total end)

    received = fn -> Enum.sum(for node <- nodes, do: Peers.on(node, :received, [scope])) end

    # The sender's time; the round ends when everything has arrived.
    cost = fn send ->
      before = received.()
      taken = Bench.time(send)
      Bench.spin_until(fn -> received.() >= before + total end)
      Bench.check!("messages", received.() - before, total)
      taken / total
    end

    ours = fn _round -> cost.(fn -> Cluster.broadcast(cluster, :group, :counted) end) end

    theirs = fn _round ->
      cost.(fn ->
        for pid <- :pg.get_members(scope, :group), do: send(pid, :counted)
      end)
    end

    result = Bench.pinned(fn -> Bench.pair(context, ours, theirs) end)
    for pid <- List.flatten(pids), do: send(pid, :stop)
    result
  end
end
