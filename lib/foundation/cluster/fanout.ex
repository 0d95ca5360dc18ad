defmodule Foundation.Cluster.Fanout do
  @moduledoc false
  # Receives one message for each broadcast of another node and sends it to the members here. It is
  # a process of its own, so that the replication does not wait for large groups.

  use GenServer

  alias Foundation.Cluster.Config
  alias Foundation.{Native, Registry}

  def start_link(config), do: GenServer.start_link(__MODULE__, config, name: config.fanout)

  @doc "Sends to all members on all nodes: one message for each of the other nodes."
  @spec broadcast(Config.t(), [node], term, term) :: :ok
  def broadcast(config, nodes, group, message) do
    for node <- nodes,
        node != node(),
        do: :erlang.send({config.fanout, node}, {:broadcast, group, message}, [:noconnect])

    local(config, group, message)
  end

  @impl true
  def init(config), do: {:ok, config}

  @impl true
  def handle_info({:broadcast, group, message}, config) do
    local(config, group, message)
    {:noreply, config}
  end

  def handle_info(_unknown, config), do: {:noreply, config}

  @impl true
  def handle_call(_unknown, _from, config), do: {:reply, {:error, :unknown_call}, config}

  @impl true
  def handle_cast(_unknown, config), do: {:noreply, config}

  defp local(%{tables: :native} = config, group, message),
    do: native(config.groups, group, message, 0)

  defp local(config, group, message) do
    for {pid, _value} <- Registry.lookup(config.groups, group),
        node(pid) == node(),
        do: send(pid, message)

    :ok
  end

  defp native(table, group, message, cursor) do
    case Native.registry_broadcast_local(table, group, message, cursor) do
      {_sent, :done} -> :ok
      {_sent, cursor} -> native(table, group, message, cursor)
      nil -> :ok
    end
  end
end
