defmodule Foundation.Cluster.Backends.Syn.Keeper do
  @moduledoc false
  # Adds this node to the cluster's scope. Claims the names of this node again when `:syn` has
  # forgotten them. Its tables end with its process `:syn_backbone`.

  use GenServer

  alias Foundation.Cluster.Backends.Syn
  alias Foundation.Cluster.Backends.Syn.Handler
  alias Foundation.Cluster.{Config, Replica}

  @owner :syn_backbone
  @poll_ms 5

  def start_link(config), do: GenServer.start_link(__MODULE__, config)

  @impl true
  def init(config) do
    Handler.install()
    # Nothing is claimed before the scope is there.
    :ok = Syn.apply(:add_node_to_scopes, [[config.name]])
    {:ok, watch(config)}
  end

  # First the monitor: what is forgotten after it is claimed again once more.
  defp watch(config) do
    monitor = Process.monitor(@owner)
    Syn.claim_again(config, Replica.own(config))
    %{config: config, monitor: monitor}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, _name, _reason}, %{monitor: monitor} = state),
    do: {:noreply, again(state.config)}

  def handle_info(:again, state), do: {:noreply, again(state.config)}
  def handle_info(_unknown, state), do: {:noreply, state}

  defp again(config) do
    if Process.whereis(@owner) do
      watch(config)
    else
      Process.send_after(self(), :again, @poll_ms)
      %{config: config, monitor: nil}
    end
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @doc "Whether a scope is a cluster of this node."
  @spec cluster?(atom) :: boolean
  def cluster?(scope), do: match?({:ok, %{backend: Syn}}, Config.fetch(scope))
end
