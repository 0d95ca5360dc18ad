defmodule Foundation.AgentRegistry.ClusterTest do
  # Not async: this makes the VM a node. The agents' registry is clustered on the peers only.
  use Foundation.Case, async: false

  alias Foundation.{AgentRegistry, ClusterNode, Peer}

  @moduletag :capture_log

  setup_all do
    distributed? = Node.alive?()
    :ok = Peer.distribute()
    settings = [agent_registry: [cluster: [engine: :pg]]]
    nodes = for {_peer, node} <- ClusterNode.start_peers(2, settings), do: node
    on_exit(fn -> if not distributed?, do: Peer.undistribute() end)
    %{nodes: nodes}
  end

  defp on(node, function, arguments), do: :erpc.call(node, AgentRegistry, function, arguments)

  test "every function works from every node, on the agent's node", %{nodes: [a, b]} do
    eventually(fn -> ClusterNode.on(a, :nodes, [AgentRegistry.table()]) == Enum.sort([a, b]) end)
    agent = Peer.spawn_on(a)
    # From the other node.
    assert on(b, :register_agent, [:agent, agent, %{n: 1}]) == :ok
    assert on(b, :register_agent, [:agent, agent]) == :ok
    other = Peer.spawn_on(b)
    assert on(b, :register_agent, [:agent, other]) == {:error, {:already_registered, agent}}

    for node <- [a, b] do
      assert on(node, :get_agent, [:agent]) == {:ok, agent}
      assert on(node, :get_agent_with_metadata, [:agent]) == {:ok, {agent, %{n: 1}}}
      assert on(node, :list_agents, []) == [{:agent, agent}]
      assert on(node, :count, []) == 1
    end

    assert on(b, :update_metadata, [:agent, %{n: 2}]) == :ok
    assert on(a, :get_agent_with_metadata, [:agent]) == {:ok, {agent, %{n: 2}}}
    eventually(fn -> on(b, :get_agent_with_metadata, [:agent]) == {:ok, {agent, %{n: 2}}} end)
    assert on(b, :unregister_agent, [:agent]) == :ok
    assert on(b, :unregister_agent, [:agent]) == {:error, :not_found}
    assert on(a, :get_agent, [:agent]) == {:error, :not_found}

    assert on(a, :register_agent, [:agent, agent]) == :ok
    eventually(fn -> on(b, :get_agent, [:agent]) == {:ok, agent} end)
    Process.exit(agent, :kill)

    for node <- [a, b],
        do: eventually(fn -> on(node, :get_agent, [:agent]) == {:error, :not_found} end)

    assert :erpc.call(a, Foundation.HealthCheck, :status, []) == :ok
  end
end
