defmodule Soak.Peers do
  @moduledoc false
  # Another node, whose processes are registered here. It dies or is disconnected.

  alias Foundation.{AgentRegistry, Peer, Registry}
  alias Soak.{Faults, Record}

  import Foundation.Eventually

  @count 20

  @doc "Starts a node, registers its processes, and kills it."
  def kill do
    {peer, node} = Peer.start()
    pids = register(node)
    Peer.stop(peer)
    gone(pids)
  end

  @doc "Starts a node, registers its processes, disconnects and reconnects it, and stops it."
  def disconnect do
    # A peer that is controlled through the distribution would end with the connection.
    {peer, node} = Peer.start(connection: :standard_io)
    pids = register(node)
    # If it set up a monitor later, it would reconnect and find the process alive.
    _state = :sys.get_state(Faults.await(Foundation.Registry.Monitor))
    true = Node.disconnect(node)
    gone(pids)
    eventually(fn -> Node.connect(node) == true end)
    register(pids)
    Peer.stop(peer)
    gone(pids)
  end

  defp register(node) when is_atom(node),
    do: register(for(_ <- 1..@count, do: Peer.spawn_on(node)))

  defp register(pids) do
    for {pid, n} <- Enum.with_index(pids) do
      {:ok, _owner} =
        Registry.register_for(Soak.Unique, pid, {:remote, pid}, {pid, {:remote, pid}, n, nil})

      :ok = AgentRegistry.register_agent({:remote, pid}, pid)
    end

    for {pid, n} <- Enum.with_index(pids) do
      found = Registry.lookup(Soak.Unique, {:remote, pid})

      Record.check!(:lost, found == [{pid, {pid, {:remote, pid}, n, nil}}], fn ->
        {:remote, pid, found}
      end)

      found = AgentRegistry.get_agent({:remote, pid})
      Record.check!(:lost, found == {:ok, pid}, fn -> {:remote, pid, found} end)
    end

    pids
  end

  # A remote process counts as alive until its monitor fires.
  defp gone(pids) do
    for pid <- pids do
      eventually(fn -> Registry.lookup(Soak.Unique, {:remote, pid}) == [] end, 20_000)
      eventually(fn -> AgentRegistry.get_agent({:remote, pid}) == {:error, :not_found} end)
    end
  end
end
