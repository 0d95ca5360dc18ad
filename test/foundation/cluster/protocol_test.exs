defmodule Foundation.Cluster.ProtocolTest do
  # One replicator, and a member on another node that speaks for a replicator there. So each message
  # comes when the test says. Not async: this makes the VM a node.
  use Foundation.Case, async: false

  import Foundation.TelemetryCase, only: [listen: 1]

  alias Foundation.{Cluster, ClusterNode, Peer}

  @moduletag :capture_log

  # Two ticks, and a slow machine.
  @again_ms 30_000

  setup_all do
    distributed? = Node.alive?()
    :ok = Peer.distribute()
    [{_peer, node}] = ClusterNode.start_peers(1)
    on_exit(fn -> if not distributed?, do: Peer.undistribute() end)
    %{node: node}
  end

  setup %{node: node} do
    cluster = unique_name("protocol")

    listen(
      for event <- [:node_up, :node_down, :synced, :conflict], do: [:foundation, :cluster, event]
    )

    start_supervised!({Cluster, name: cluster})
    eventually(fn -> Cluster.info(cluster).state == :up end)
    %{cluster: cluster, peer: ClusterNode.member(node), other: ClusterNode.member(node)}
  end

  defp tell(cluster, message), do: send(Module.concat(cluster, Replicator), message)

  # Everything told before it has been handled.
  defp settle(cluster), do: :sys.get_state(Module.concat(cluster, Replicator))

  defp pulls(peer), do: for({:pull, _replicator, pull} <- ClusterNode.inbox(peer), do: pull)

  defp assert_event(event, cluster, node) do
    assert_receive {[:foundation, :cluster, ^event], %{count: 1},
                    %{cluster: ^cluster, node: ^node}},
                   30_000
  end

  test "a node that syncs does not know which names are absent, until it has all of them",
       %{cluster: cluster, peer: peer, other: other, node: node} do
    tell(cluster, {:hello, peer, false})
    assert [pull] = eventually(fn -> pulls(peer) != [] and pulls(peer) end)
    assert_event(:node_up, cluster, node)
    assert Cluster.info(cluster).state == :syncing
    assert Cluster.nodes(cluster) == Enum.sort([node(), node])
    assert Cluster.fetch(cluster, :key) == {:error, {:unknown, :syncing}}
    mfa = {GenServer, :start, [ClusterNode, nil]}
    assert Cluster.ensure(cluster, :key, mfa, timeout: 0) == {:error, {:unknown, :syncing}}

    tell(cluster, {:ops, peer, [{:name, :key, {other, 1, :value}}], {:chunk, pull}})

    eventually(fn ->
      {:more, Process.whereis(Module.concat(cluster, Replicator)), pull} in ClusterNode.inbox(
        peer
      )
    end)

    assert Cluster.fetch(cluster, :key) == {:ok, other, :value}
    assert Cluster.fetch(cluster, :absent) == {:error, {:unknown, :syncing}}

    tell(cluster, {:ops, peer, [], {:last, pull}})
    assert_event(:synced, cluster, node)
    assert Cluster.fetch(cluster, :absent) == :error

    tell(cluster, {:bye, peer})
    assert_event(:node_down, cluster, node)
    assert Cluster.fetch(cluster, :key) == :error
    assert Cluster.nodes(cluster) == [node()]
  end

  test "the end of an earlier snapshot removes nothing of a later one",
       %{cluster: cluster, peer: peer, other: other, node: node} do
    claim = fn key -> {:name, key, {other, 1, nil}} end
    tell(cluster, {:hello, peer, false})
    [first] = eventually(fn -> pulls(peer) != [] and pulls(peer) end)
    tell(cluster, {:ops, peer, [claim.(:a), claim.(:b)], {:chunk, first}})
    # The peer is slow, and is asked again. Then its answer to the first question arrives.
    second = eventually(fn -> Enum.at(pulls(peer), 1) end, @again_ms)
    tell(cluster, {:ops, peer, [claim.(:c)], {:last, first}})
    settle(cluster)
    for key <- [:a, :b, :c], do: assert(Cluster.whereis_name({cluster, key}) == other)
    assert Cluster.info(cluster).state == :syncing

    tell(cluster, {:ops, peer, [claim.(:a), claim.(:c)], {:last, second}})
    assert_event(:synced, cluster, node)
    # An entry that the later snapshot lacks is out of date.
    assert Cluster.fetch(cluster, :b) == :error
    assert Cluster.whereis_name({cluster, :a}) == other
  end

  test "a name of this node that an older claim has is lost once, with an event",
       %{cluster: cluster, peer: peer, other: other} do
    tell(cluster, {:hello, peer, false})
    {:ok, _owner} = Cluster.register(cluster, :key, :mine)
    me = self()

    for _time <- 1..3, do: tell(cluster, {:ops, peer, [{:name, :key, {other, 1, nil}}], :live})
    settle(cluster)
    assert Cluster.whereis_name({cluster, :key}) == other
    assert_receive {:foundation_cluster, ^cluster, :conflict, :key, ^other}, 30_000

    assert_receive {[:foundation, :cluster, :conflict], %{count: 1},
                    %{cluster: ^cluster, key: :key, winner: ^other, loser: ^me}},
                   30_000

    assert Cluster.info(cluster).conflicts == 1
    refute_received {:foundation_cluster, _, _, _, _}
  end

  test "messages of a process that is no peer change nothing",
       %{cluster: cluster, peer: peer, other: other} do
    tell(cluster, {:ops, peer, [{:name, :key, {other, 1, nil}}], :live})
    tell(cluster, {:more, peer, make_ref()})
    tell(cluster, {:pull, peer, make_ref()})
    tell(cluster, {:bye, peer})
    settle(cluster)
    assert Cluster.fetch(cluster, :key) == :error
    assert ClusterNode.inbox(peer) == []
  end
end
