defmodule Soak.Cluster do
  @moduledoc false
  # A cluster of this node and another one, which loses its processes on both, and the connection.
  #
  # Members register names of their own, which their node must find at all times, and shared names,
  # which both nodes may give away while they are not connected.

  @behaviour Soak.Area

  alias Foundation.{Cluster, ClusterNode, Peer}
  alias Soak.{Faults, Record}

  import Foundation.Eventually

  @names Soak.Cluster.Names
  @tree Soak.Cluster.Tree
  @area [
    @names | Enum.map([Groups, Scope, Fanout, Ensure, Replicator], &Module.concat(@names, &1))
  ]

  @slots 8
  @shared 20
  @settle_ms 30_000

  @impl true
  def name, do: "cluster"

  @impl true
  def invariants do
    [
      cluster_names: "names of the cluster that their own node lost",
      cluster_agree: "names on which the nodes of a cluster disagree",
      cluster_alive: "names of the cluster with a dead process"
    ]
  end

  @impl true
  def open(options) do
    {_peer, node} = Peer.start(connection: :standard_io)
    :persistent_term.put(__MODULE__, node)
    :ok = :erpc.call(node, Application, :put_env, [:foundation, :engine, options.engine])
    {:ok, _apps} = :erpc.call(node, Application, :ensure_all_started, [:foundation])
    :ok = :erpc.call(node, Logger, :configure, [[level: :none]])
    there = [Foundation.Supervisor, {Cluster, name: @names}]
    {:ok, _pid} = :erpc.call(node, Supervisor, :start_child, there)
    children = [{Cluster, name: @names, tables: options.engine}]
    options = [strategy: :one_for_one, max_restarts: 1_000, name: @tree]
    {:ok, _pid} = Supervisor.start_link(children, options)
  end

  defp node_there, do: :persistent_term.get(__MODULE__)

  @impl true
  def crew do
    [
      %{count: @slots, init: &%{slot: &1, n: 0}, step: &own/1},
      %{count: 2, init: & &1, step: &share/1},
      %{count: 2, init: fn _index -> nil end, step: &share_there/1}
    ]
  end

  ## Names of a member's own

  defp own(%{slot: slot, n: n} = state) do
    key = {:own, self(), slot}
    taken? = match?({:ok, _owner}, Cluster.register(@names, key, n))
    Record.check!(:cluster_names, taken?, fn -> {:register, key} end)
    found(key, [{self(), n}])
    Record.check!(:cluster_names, Cluster.whereis_name({@names, key}) == self(), fn -> key end)
    Cluster.update_value(@names, key, &(&1 + 1))
    found(key, [{self(), n + 1}])
    :ok = Cluster.unregister(@names, key)
    found(key, [])
    {6, %{state | n: n + 1}}
  end

  defp found(key, expected) do
    found = Cluster.lookup(@names, key)

    Record.check!(:cluster_names, found == expected, fn -> {key, found, :instead_of, expected} end)
  end

  ## Names that all want

  defp share(index) do
    key = {:shared, :rand.uniform(@shared)}

    if :rand.uniform(3) == 1,
      do: Cluster.unregister(@names, key),
      else: Cluster.register(@names, key, index)

    forget_conflicts()
    {1, index}
  end

  defp forget_conflicts do
    receive do
      {:foundation_cluster, @names, :conflict, _key, _winner} -> forget_conflicts()
    after
      0 -> :ok
    end
  end

  defp share_there(nil) do
    {1, ClusterNode.member(node_there())}
  catch
    :error, _not_connected -> {0, nil}
  end

  defp share_there(member) do
    key = {:shared, :rand.uniform(@shared)}
    function = if :rand.uniform(3) == 1, do: :unregister, else: :register
    # Not a call that waits: the connection may go.
    true = is_tuple(ClusterNode.run(member, function, [@names, key])) or function == :unregister
    {1, member}
  catch
    :exit, _not_connected -> {0, nil}
  end

  ## Faults

  @impl true
  def faults(_engine) do
    here = for name <- @area, do: {"process of the cluster killed", 1, fn -> kill(name) end}

    there =
      for name <- @area,
          do: {"process of the cluster killed there", 1, fn -> kill_there(name) end}

    here ++
      there ++
      [
        {"supervisor of the cluster killed", 1,
         fn -> kill(Module.concat(@names, Supervisor)) end},
        {"connection of the cluster lost", 2, fn -> Node.disconnect(node_there()) end},
        {"connection of the cluster back", 2, fn -> Node.connect(node_there()) end}
      ]
  end

  # A supervisor that was killed may still be on its way down.
  defp kill(name), do: Process.exit(Faults.await(name), :kill)

  defp kill_there(name) do
    with pid when is_pid(pid) <- :erpc.call(node_there(), Process, :whereis, [name]),
         do: Process.exit(pid, :kill)
  catch
    :error, _not_connected -> :ok
  end

  ## Audit

  @impl true
  def audit do
    judged =
      try do
        eventually(&settled/0, @settle_ms)
      rescue
        not_in_time in ExUnit.AssertionError -> {:error, Exception.message(not_in_time)}
      end

    Record.check!(:cluster_agree, is_list(judged), fn -> {judged, lists()} end)
    dead = for {_key, pid, _value} = name <- judged, not alive?(pid), do: name
    Record.check!(:cluster_alive, dead == [], fn -> dead end)
  end

  defp settled do
    true = Node.connect(node_there())
    whole? = Enum.all?([node(), node_there()], &whole?/1)
    {here, there} = lists()
    whole? and here == there and here
  catch
    # Its processes are being restarted.
    kind, _reason when kind in [:error, :exit] -> false
  end

  defp whole?(node) do
    both = Enum.sort([node(), node_there()])

    ClusterNode.on(node, :nodes, [@names]) == both and
      ClusterNode.on(node, :info, [@names]).state == :up
  end

  defp lists do
    {ClusterNode.list(@names), :erpc.call(node_there(), ClusterNode, :list, [@names])}
  end

  defp alive?(pid), do: :erpc.call(node(pid), Process, :alive?, [pid])
end
