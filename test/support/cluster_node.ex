defmodule Foundation.ClusterNode do
  @moduledoc """
  Nodes that run a cluster, and processes on them that do what they are told.

  A *member* is a process on some node that calls `Foundation.Cluster` when it is asked to, and
  keeps the messages that it gets.
  """

  use GenServer

  alias Foundation.{Cluster, Peer}

  @doc "Starts peers that run the application with these settings, each connected to all others."
  @spec start_peers(pos_integer, keyword) :: [{pid, node}]
  def start_peers(count, settings \\ []) do
    peers = for _index <- 1..count, do: Peer.start()

    for {_peer, node} <- peers do
      :ok = :erpc.call(node, Application, :put_all_env, [[foundation: settings]])
      {:ok, _apps} = :erpc.call(node, Application, :ensure_all_started, [:foundation])
      for {_other, other} <- peers, other != node, do: :erpc.call(node, Node, :connect, [other])
    end

    peers
  end

  @doc "Starts the application :syn on a node, which logs much of what it does."
  @spec start_syn(node) :: :ok
  def start_syn(node) do
    if node != node(), do: :ok = :erpc.call(node, Logger, :configure, [[level: :error]])
    {:ok, _apps} = :erpc.call(node, Application, :ensure_all_started, [:syn])
    :ok
  end

  @doc "Starts a cluster on a node, below a supervisor of its own; returns that supervisor."
  @spec start_cluster(node, keyword) :: pid
  def start_cluster(node, options) do
    caller = self()
    ref = make_ref()
    # It lives as long as the supervisor that it starts.
    Node.spawn(node, __MODULE__, :supervise, [caller, ref, options])

    receive do
      {^ref, supervisor} -> supervisor
    after
      30_000 -> ExUnit.Assertions.flunk("no cluster on #{node}")
    end
  end

  @doc false
  def supervise(caller, ref, options) do
    {:ok, supervisor} =
      Supervisor.start_link([{Cluster, options}], strategy: :one_for_one, max_restarts: 1_000)

    send(caller, {ref, supervisor})
    monitor = Process.monitor(supervisor)
    receive do: ({:DOWN, ^monitor, :process, _pid, _reason} -> :ok)
  end

  @doc "Starts a member on a node."
  @spec member(node) :: pid
  def member(node) do
    {:ok, pid} = :erpc.call(node, GenServer, :start, [__MODULE__, nil])
    pid
  end

  @doc "Runs a function of `Foundation.Cluster` in a member."
  @spec run(pid, atom, [term]) :: term
  def run(member, function, arguments),
    do: GenServer.call(member, {:run, function, arguments}, 30_000)

  @doc "Starts a member and registers it; returns its pid."
  @spec register(node, atom, term, term) :: pid
  def register(node, cluster, key, value \\ nil) do
    pid = member(node)
    {:ok, _owner} = run(pid, :register, [cluster, key, value])
    pid
  end

  @doc "Registers a member under many keys; returns how many it got."
  @spec register_all(pid, atom, Enumerable.t()) :: non_neg_integer
  def register_all(member, cluster, keys),
    do: GenServer.call(member, {:register_all, cluster, keys}, 60_000)

  @doc "The messages that a member has got, the first one first."
  @spec inbox(pid) :: [term]
  def inbox(member), do: GenServer.call(member, :inbox)

  @doc "A function of `Foundation.Cluster`, on a node."
  @spec on(node, atom, [term]) :: term
  def on(node, function, arguments), do: :erpc.call(node, Cluster, function, arguments)

  @doc false
  def list(cluster), do: Enum.sort(Enum.to_list(Cluster.stream(cluster)))

  @doc false
  # As `on_conflict` calls it: the loser keeps the arguments.
  def conflict(cluster, key, loser, winner, given),
    do: send(loser, {:called, node(), [cluster, key, loser, winner, given]})

  @doc false
  # Until it is killed itself.
  def kill_repeatedly(name, pause_ms) do
    with pid when is_pid(pid) <- Process.whereis(name), do: Process.exit(pid, :kill)

    receive do
    after
      pause_ms -> kill_repeatedly(name, pause_ms)
    end
  end

  @doc false
  # As :syn calls its event handler.
  def on_process_registered(scope, name, pid, _meta, _reason),
    do: if(node(pid) == node(), do: send(pid, {:syn, scope, name}))

  @impl true
  def init(nil), do: {:ok, []}

  @impl true
  def handle_call({:run, function, arguments}, _from, inbox),
    do: {:reply, apply(Cluster, function, arguments), inbox}

  def handle_call({:register_all, cluster, keys}, _from, inbox) do
    {:reply, Enum.count(keys, &match?({:ok, _}, Cluster.register(cluster, &1))), inbox}
  end

  def handle_call(:inbox, _from, inbox), do: {:reply, Enum.reverse(inbox), inbox}

  @impl true
  def handle_info(message, inbox), do: {:noreply, [message | inbox]}
end
