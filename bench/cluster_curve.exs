# How a cluster grows with its nodes: registrations a second on one node, until all have them, and
# bytes a name on each. INTERNALS.md has the figures. Run it by hand:
#
#     mix run --no-start bench/cluster_curve.exs

Code.require_file("support/bench.exs", __DIR__)
Code.require_file("support/peers.exs", __DIR__)

defmodule Bench.ClusterCurve do
  @moduledoc false

  alias Bench.{ClusterNode, Peers}
  alias Foundation.Cluster

  @names 20_000
  @rounds 5

  def main do
    {:ok, _started} = Application.ensure_all_started(:foundation)
    Peers.distribute()
    IO.puts("nodes  names a second  until all have them  bytes a name here  bytes a name there")
    for nodes <- [1, 3, 5], do: measure(nodes)
  end

  defp measure(count) do
    peers = Peers.start(count - 1)
    others = for {_peer, node} <- peers, do: node
    cluster = :"#{__MODULE__}_#{count}"
    Peers.start_cluster(cluster, [node() | others])
    rounds = for round <- 1..@rounds, do: round(cluster, others, round)
    median = fn index -> rounds |> Enum.map(&elem(&1, index)) |> Bench.median() |> round() end

    IO.puts(
      Enum.map_join(0..3, "", &String.pad_leading("#{median.(&1)}", 20))
      |> then(&(String.pad_trailing("#{count}", 5) <> &1))
    )

    ClusterNode.stop_cluster(cluster)
    for {peer, _node} <- peers, do: :peer.stop(peer)
  end

  defp round(cluster, others, round) do
    before = {bytes(node(), cluster), if(others != [], do: bytes(hd(others), cluster), else: 0)}
    keys = for n <- 1..@names, do: {round, n}

    started = System.monotonic_time()
    for key <- keys, do: {:ok, _owner} = Cluster.register(cluster, key, nil)
    here = System.monotonic_time()
    Bench.spin_until(fn -> Enum.all?(others, &(count(&1, cluster) == @names)) end)
    everywhere = System.monotonic_time()

    {here_before, there_before} = before
    grown = bytes(node(), cluster) - here_before
    there = if others != [], do: bytes(hd(others), cluster) - there_before, else: 0
    for key <- keys, do: :ok = Cluster.unregister(cluster, key)
    Bench.spin_until(fn -> Enum.all?([node() | others], &(count(&1, cluster) == 0)) end)

    {a_second(here - started), a_second(everywhere - started), grown / @names, there / @names}
  end

  defp a_second(native), do: @names * System.convert_time_unit(1, :second, :native) / native

  defp count(node, cluster), do: :erpc.call(node, Cluster, :count, [cluster])

  # The table, and what the replicator knows.
  defp bytes(node, cluster) do
    replicator = :erpc.call(node, Process, :whereis, [Module.concat(cluster, Replicator)])
    true = :erpc.call(node, :erlang, :garbage_collect, [replicator])
    {:memory, process} = :erpc.call(node, Process, :info, [replicator, :memory])
    process + :erpc.call(node, Foundation.Registry, :info, [cluster]).memory
  end
end

Bench.ClusterCurve.main()
