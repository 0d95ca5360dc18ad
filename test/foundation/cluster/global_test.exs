defmodule Foundation.Cluster.GlobalTest do
  # The engine :global on three nodes that are cut off from each other and meet again.
  use Foundation.Case, async: true

  import Foundation.Partition

  alias Foundation.Cluster
  alias Foundation.Cluster.Backends.Global

  @moduletag :capture_log

  @settle_ms 30_000

  setup_all do: %{peers: start_peers(3)}

  setup %{peers: peers} do
    cluster = unique_name("global")
    heal_all(peers)
    for {peer, _} <- peers, do: start_cluster(peer, name: cluster, engine: :global)
    await_synced(peers, cluster)
    %{cluster: cluster}
  end

  # `:global` exchanges its names in its own time, and forgets none on a node that it is not done
  # with.
  defp await_synced(peers, cluster) do
    await_whole(peers, cluster)
    for {peer, _node} <- peers, do: :ok = :peer.call(peer, :global, :sync, [])
  end

  defp holder(peer, cluster, key),
    do: :peer.call(peer, :global, :whereis_name, [{Foundation.Cluster, cluster, key}])

  test "after a heal the older registration has the name, in :global as in the replicas",
       %{peers: [{a, _}, {b, node_b}, {c, node_c}] = peers, cluster: cluster} do
    # The second node is alone.
    cut(a, node_b, peers)
    cut(b, node_c, peers)
    for peer <- [a, c], do: eventually(fn -> node_b not in on(peer, :nodes, [cluster]) end)
    [older, younger] = [member(a), member(b)]
    {:ok, _} = run(a, older, :register, [cluster, :key])
    {:ok, _} = run(b, younger, :register, [cluster, :key])
    heal_all(peers)
    await_synced(peers, cluster)

    for {peer, _node} <- peers do
      eventually(fn -> on(peer, :whereis_name, [{cluster, :key}]) == older end, @settle_ms)
      eventually(fn -> holder(peer, cluster, :key) == older end, @settle_ms)
    end

    told = {:foundation_cluster, cluster, :conflict, :key, older}
    eventually(fn -> inbox(b, younger) == [told] end)
    assert on(b, :info, [cluster]).conflicts == 1
    # It is free once the winner lets it go, and the loser may have another name.
    run(a, older, :unregister, [cluster, :key])
    eventually(fn -> on(b, :lookup, [cluster, :key]) == [] end)
    eventually(fn -> match?({:ok, _}, run(b, younger, :register, [cluster, :key])) end)
    eventually(fn -> holder(c, cluster, :key) == younger end)
  end

  test "resolve/3 keeps the older process, and one whose node does not answer loses",
       %{peers: [{a, _}, {b, _}, {c, _}], cluster: cluster} do
    [older, younger, unknown] = [member(a), member(b), member(c)]
    {:ok, _} = run(a, older, :register, [cluster, :one])
    {:ok, _} = run(b, younger, :register, [cluster, :two])

    # The names differ, so that both are registered at once; the rule does not look at them.
    stamp = fn peer, pid, key ->
      :peer.call(peer, Global, :stamp_of, [cluster, key, pid])
    end

    assert stamp.(a, older, :one) < stamp.(b, younger, :two)
    assert stamp.(c, unknown, :one) == :unknown

    for {one, other} <- [{older, unknown}, {unknown, older}] do
      name = {Foundation.Cluster, cluster, :one}
      assert :peer.call(c, Global, :resolve, [name, one, other]) == older
    end
  end

  test "a loser whose name :global has kept gives it to the winner",
       %{peers: [{a, _}, {b, _}, _], cluster: cluster} do
    [loser, winner] = [member(a), member(b)]
    {:ok, _} = run(a, loser, :register, [cluster, :key])
    {:ok, config} = :peer.call(a, Cluster.Config, :fetch, [cluster])
    :ok = :peer.call(a, Global, :lost, [config, :key, loser, winner])
    assert holder(a, cluster, :key) == winner
    eventually(fn -> holder(b, cluster, :key) == winner end)
    # Of a name that it does not have it gives nothing.
    :ok = :peer.call(a, Global, :lost, [config, :key, loser, loser])
    assert holder(a, cluster, :key) == winner
  end

  test "a name left by a call that was killed halfway is free for its process",
       %{peers: [{a, _}, _, _], cluster: cluster} do
    pid = member(a)
    {:ok, config} = :peer.call(a, Cluster.Config, :fetch, [cluster])
    :ok = :peer.call(a, Global, :claim, [config, :key, pid, 1])
    assert holder(a, cluster, :key) == pid
    assert on(a, :lookup, [cluster, :key]) == []
    assert {:ok, _} = run(a, pid, :register, [cluster, :key])
    assert {:error, {:already_registered, ^pid}} = run(a, pid, :register, [cluster, :key])
    assert holder(a, cluster, :key) == pid
  end
end
