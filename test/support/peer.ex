defmodule Foundation.Peer do
  @moduledoc """
  A second node on this machine, for tests that need one.

  Distribution is global, so a test that uses this is not async.
  """

  @doc """
  Makes this VM a node, unless it is one. Node names use addresses, so no host name must resolve.
  """
  @spec distribute() :: :ok
  def distribute do
    if not Node.alive?() do
      # Without epmd net_kernel fails. If it runs already, this does nothing.
      {_output, 0} = System.cmd(epmd(), ["-daemon"])
      {:ok, _pid} = :net_kernel.start([:"foundation_#{System.pid()}@127.0.0.1", :longnames])
    end

    :ok
  end

  @doc """
  Ends this VM's distribution, and waits until it has ended: the VM gives up its name a moment after
  the process that held it has exited.
  """
  @spec undistribute() :: :ok
  def undistribute do
    Node.stop()
    Foundation.Eventually.eventually(fn -> not Node.alive?() end)
    :ok
  end

  @doc """
  Starts a node that has this project's code. It ends with the process that started it.

  With `connection: :standard_io` it outlives a loss of the connection between the nodes. `:args`
  come before the standard arguments of the VM.
  """
  @spec start(keyword) :: {pid, node}
  def start(options \\ []) do
    options = Map.new(options)

    options =
      Map.merge(options, %{
        name: :"peer_#{System.pid()}_#{System.unique_integer([:positive])}",
        host: ~c"127.0.0.1",
        longnames: true,
        args: Map.get(options, :args, []) ++ code_paths()
      })

    {:ok, peer, node} = :peer.start_link(options)
    {peer, node}
  end

  @doc """
  Starts a VM with this project's code that is not a node. `:peer.call/5` runs functions in it.
  """
  @spec start_alone() :: pid
  def start_alone do
    {:ok, peer, _name} = :peer.start_link(%{connection: :standard_io, args: code_paths()})
    peer
  end

  defp code_paths, do: Enum.flat_map(:code.get_path(), &[~c"-pa", &1])

  @doc "Ends a node without notice, as a crash would."
  @spec stop(pid) :: :ok
  def stop(peer), do: :peer.stop(peer)

  @doc "Starts a process on the node, without links, that answers calls (an agent)."
  @spec spawn_on(node) :: pid
  def spawn_on(node) do
    {:ok, pid} = :erpc.call(node, Agent, :start, [:erlang, :node, []])
    pid
  end

  defp epmd do
    bundled = Path.wildcard(Path.join([:code.root_dir(), "erts-*", "bin", "epmd"]))
    System.find_executable("epmd") || List.first(bundled) || "epmd"
  end
end
