unless Code.ensure_loaded?(Bench.Peers) do
  [node_module] = Code.compile_file("cluster_node.exs", __DIR__)

  defmodule Bench.Peers do
    @moduledoc false
    # Other nodes on this machine, for the rows of the cluster.

    @node_module Macro.escape(node_module)

    @doc "Makes this VM a node."
    def distribute do
      unless Node.alive?() do
        epmd = System.find_executable("epmd") || bundled_epmd()
        {_output, 0} = System.cmd(epmd, ["-daemon"])
        {:ok, _pid} = :net_kernel.start([:"bench_#{System.pid()}@127.0.0.1", :longnames])
      end

      :ok
    end

    defp bundled_epmd,
      do: hd(Path.wildcard(Path.join([:code.root_dir(), "erts-*", "bin", "epmd"])))

    @doc "Starts a node that runs the library; `:peer.stop/1` ends it as a crash would."
    def start do
      {:ok, peer, node} =
        :peer.start(%{
          name: :"bench_peer_#{System.pid()}_#{System.unique_integer([:positive])}",
          host: ~c"127.0.0.1",
          longnames: true,
          args: Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
        })

      {module, binary} = @node_module
      {:module, ^module} = :erpc.call(node, :code, :load_binary, [module, ~c"", binary])
      {:ok, _started} = :erpc.call(node, Application, :ensure_all_started, [:foundation])
      {peer, node}
    end

    @doc "Starts nodes that are connected to each other."
    def start(count) do
      peers = for _index <- 1..count//1, do: start()
      for {_, a} <- peers, {_, b} <- peers, a < b, do: true = :erpc.call(a, Node, :connect, [b])
      peers
    end

    @doc "Calls `Bench.ClusterNode` on a node."
    def on(node, function, arguments),
      do: :erpc.call(node, Bench.ClusterNode, function, arguments, :infinity)

    @doc "Starts a cluster on these nodes, and waits until all of them are members."
    def start_cluster(name, nodes) do
      for node <- nodes, do: :ok = on(node, :start_cluster, [[name: name]])

      for node <- nodes do
        Bench.spin_until(fn ->
          length(:erpc.call(node, Foundation.Cluster, :nodes, [name])) == length(nodes) and
            :erpc.call(node, Foundation.Cluster, :info, [name]).state == :up
        end)
      end

      :ok
    end
  end
end
