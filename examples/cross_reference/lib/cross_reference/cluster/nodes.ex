defmodule CrossReference.Cluster.Nodes do
  @moduledoc false
  # The nodes of the demo: this VM and others on this machine.

  @doc "Makes this VM a node."
  @spec distribute() :: :ok
  def distribute do
    unless Node.alive?() do
      {_output, 0} = System.cmd(epmd(), ["-daemon"])
      {:ok, _pid} = :net_kernel.start([:"demo_#{System.pid()}@127.0.0.1", :longnames])
    end

    :ok
  end

  defp epmd do
    bundled = Path.wildcard(Path.join([:code.root_dir(), "erts-*", "bin", "epmd"]))
    System.find_executable("epmd") || hd(bundled)
  end

  @doc "Starts a node with the code of this one and the library running on it."
  @spec start() :: {pid, node}
  def start do
    {:ok, peer, node} =
      :peer.start(%{
        name: :"demo_#{System.pid()}_#{System.unique_integer([:positive])}",
        host: ~c"127.0.0.1",
        longnames: true,
        args: Enum.flat_map(:code.get_path(), &[~c"-pa", &1])
      })

    engine = Application.get_env(:foundation, :engine, :auto)
    :ok = :erpc.call(node, Application, :put_env, [:foundation, :engine, engine])
    {:ok, _started} = :erpc.call(node, Application, :ensure_all_started, [:foundation])
    {peer, node}
  end

  @doc "Starts a cluster on a node, for as long as the node lives."
  @spec start_cluster(node, atom) :: :ok
  def start_cluster(node, cluster) do
    child = {Foundation.Cluster, name: cluster}
    {:ok, _pid} = :erpc.call(node, Supervisor, :start_child, [Foundation.Supervisor, child])
    :ok
  end

  @doc "Kills a node: it has no time for anything."
  @spec kill(node) :: :ok
  def kill(node) do
    os_pid = :erpc.call(node, System, :pid, [])
    {_output, 0} = System.cmd("kill", ["-9", os_pid])
    :ok
  end
end
