defmodule Foundation.Partition do
  @moduledoc """
  Nodes that this VM is not connected to, whose connections to each other are cut and healed.

  This VM talks to them by their standard input. So its own `:global` cuts nothing off, and it sees
  each side of a partition.
  """

  import Foundation.Eventually

  alias Foundation.{Cluster, ClusterNode, Peer}

  @type peer :: {pid, node}

  @arguments [~c"-kernel", ~c"prevent_overlapping_partitions", ~c"false"]
  @settle_ms 20_000

  @doc "Starts nodes that run the application; they end with the caller."
  @spec start_peers(pos_integer) :: [peer]
  def start_peers(count) do
    for _index <- 1..count do
      {peer, node} = Peer.start(connection: :standard_io, args: @arguments)
      {:ok, _apps} = :peer.call(peer, Application, :ensure_all_started, [:foundation])
      {peer, node}
    end
  end

  @doc "The tables that the library uses here."
  @spec tables() :: :native | :ets
  def tables, do: if(Foundation.Native.library_version() == nil, do: :ets, else: :native)

  @doc "Starts a cluster on a node."
  def start_cluster(peer, options) do
    {:ok, _pid} =
      :peer.call(peer, Supervisor, :start_child, [Foundation.Supervisor, {Cluster, options}])
  end

  @doc "Waits until all nodes are members and have all names."
  def await_whole(peers, cluster) do
    nodes = peers |> Enum.map(&elem(&1, 1)) |> Enum.sort()

    for {peer, _node} <- peers do
      eventually(
        fn ->
          on(peer, :nodes, [cluster]) == nodes and on(peer, :info, [cluster]).state == :up
        end,
        @settle_ms
      )
    end
  end

  @doc "A function of `Foundation.Cluster`, on a node."
  def on(peer, function, arguments), do: :peer.call(peer, Cluster, function, arguments)

  @doc "A function of `Foundation.Cluster`, in a member of a node."
  def run(peer, member, function, arguments),
    do: :peer.call(peer, ClusterNode, :run, [member, function, arguments])

  @doc false
  def inbox(peer, member), do: :peer.call(peer, ClusterNode, :inbox, [member])
  @doc false
  def list(peer, cluster), do: :peer.call(peer, ClusterNode, :list, [cluster])

  @doc false
  def member(peer) do
    {:ok, pid} = :peer.call(peer, GenServer, :start, [ClusterNode, nil])
    pid
  end

  @doc "Each two of them."
  def pairs(peers), do: for({one, n} <- peers, {_, m} = other <- peers, n < m, do: {one, other})

  @doc "Cuts a connection. A cookie of their own for each other keeps the two nodes apart."
  def cut(peer, node, peers) do
    own = :peer.call(peer, :erlang, :node, [])
    :peer.call(peer, :erlang, :set_cookie, [node, :apart])
    :peer.call(of(peers, node), :erlang, :set_cookie, [own, :apart_too])
    :peer.call(peer, :erlang, :disconnect_node, [node])
    eventually(fn -> own not in :peer.call(of(peers, node), :erlang, :nodes, []) end)
  end

  @doc "Heals every connection."
  def heal_all(peers), do: for({one, {_peer, other}} <- pairs(peers), do: heal(one, other, peers))

  @doc "Heals a connection."
  def heal(peer, node, peers) do
    own = :peer.call(peer, :erlang, :node, [])
    :peer.call(peer, :erlang, :set_cookie, [node, :together])
    :peer.call(of(peers, node), :erlang, :set_cookie, [own, :together])
    eventually(fn -> :peer.call(peer, Node, :connect, [node]) end)
  end

  defp of(peers, node) do
    {peer, ^node} = List.keyfind(peers, node, 1)
    peer
  end

  @doc "Kills one process of the cluster on a node, or its supervisor."
  def kill_one(peer, cluster) do
    supervisor = :peer.call(peer, Process, :whereis, [Module.concat(cluster, Supervisor)])
    children = :peer.call(peer, Supervisor, :which_children, [supervisor])
    pids = for {_id, pid, _type, _modules} <- children, is_pid(pid), do: pid
    :peer.call(peer, Process, :exit, [Enum.random([supervisor | pids]), :kill])
  catch
    # It was killed just before, and has no successor yet.
    :exit, _gone -> kill_one(peer, cluster)
  end
end
