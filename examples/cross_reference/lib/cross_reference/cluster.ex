defmodule CrossReference.Cluster do
  @moduledoc false
  # The demo over three nodes, of which one is killed in the middle.
  #
  # Each module has one agent in the whole cluster, on its home node. This node sees to it that each
  # module has one, and collects the result at the end.

  alias CrossReference.{Await, Format, Input, Run}
  alias CrossReference.Cluster.{Agent, Nodes}
  alias Foundation.Cluster

  @others 2
  @settle_ms 120_000

  @usage """
  Usage: script/cluster_demo [options]

    --modules N            take the first N modules only (default: all)
    --kill 0|1             whether a node is killed in the middle (default: 1)
    --help                 print this
  """

  @doc "Runs the command line `argv`; exits with status 1 if the result is wrong, 2 for misuse."
  @spec command([String.t()]) :: :ok
  def command(argv) do
    case OptionParser.parse(argv, strict: [modules: :integer, kill: :integer, help: :boolean]) do
      {[help: true], [], []} -> IO.write(@usage)
      {options, [], []} -> with_options(options[:modules], options[:kill] || 1)
      {_options, rest, invalid} -> misuse(rest ++ Enum.map(invalid, &elem(&1, 0)))
    end
  end

  defp with_options(modules, kill) when (modules == nil or modules > 0) and kill in 0..1 do
    {:ok, _started} = Application.ensure_all_started(:foundation)
    sources = Input.sources()
    report = run(if(modules, do: Enum.take(sources, modules), else: sources), kill == 1)
    IO.write(text(report))
    if report.equal, do: :ok, else: exit({:shutdown, 1})
  end

  defp with_options(_modules, _kill), do: misuse(["--modules or --kill"])

  defp misuse(what) do
    IO.write(:stderr, ["script/cluster_demo: cannot use ", Enum.join(what, " "), "\n\n", @usage])
    exit({:shutdown, 2})
  end

  @doc "Runs the demo and returns its report: `equal` says whether the result is right."
  @spec run([Input.Source.t()], kill? :: boolean) :: map
  def run(sources, kill?) do
    Nodes.distribute()
    peers = for _index <- 1..@others, do: Nodes.start()
    nodes = [node() | Enum.map(peers, &elem(&1, 1))]
    cluster = :"cross_reference_#{System.unique_integer([:positive])}"

    try do
      start_cluster(cluster, nodes, sources)
      victim = if kill?, do: List.last(nodes)
      {work_us, {agents, lost}} = :timer.tc(fn -> work(cluster, sources, victim) end)
      {calls, outside} = result(agents)
      {sequential_us, expected} = :timer.tc(fn -> Run.sequential(sources) end)

      %{
        modules: length(sources),
        agents: Enum.frequencies_by(agents, fn {_module, {agent, _outside}} -> node(agent) end),
        killed: victim,
        lost: lost,
        calls: calls |> Map.values() |> Enum.map(&MapSet.size/1) |> Enum.sum(),
        outside: outside,
        equal: {calls, outside} == expected,
        members: Cluster.nodes(cluster),
        seconds: %{agents: work_us / 1_000_000, sequential: sequential_us / 1_000_000}
      }
    after
      stop_agents(cluster)
      Supervisor.terminate_child(Foundation.Supervisor, cluster)
      Supervisor.delete_child(Foundation.Supervisor, cluster)
      for {peer, _node} <- peers, do: stop(peer)
    end
  end

  defp stop_agents(cluster) do
    agents = for {_module, agent, _value} <- Cluster.stream(cluster), do: agent
    for agent <- agents, do: finish(agent)
    for agent <- agents, do: Process.exit(agent, :kill)
  end

  defp finish(agent) do
    Agent.finish(agent)
  catch
    :exit, _gone -> :ok
  end

  defp stop(peer) do
    :peer.stop(peer)
  catch
    # It was killed.
    :exit, _gone -> :ok
  end

  defp start_cluster(cluster, nodes, sources) do
    sources = Map.new(sources, &{&1.module, &1})

    for node <- nodes do
      :ok = :erpc.call(node, Agent, :put_sources, [sources])
      Nodes.start_cluster(node, cluster)
    end

    for node <- nodes do
      Await.until!("all nodes to be members", fn ->
        length(:erpc.call(node, Cluster, :nodes, [cluster])) == length(nodes)
      end)
    end
  end

  # The node is killed when half of the agents have been started.
  defp work(cluster, sources, victim) do
    modules = Enum.map(sources, & &1.module)
    {first, second} = Enum.split(modules, div(length(modules), 2))
    started = start_agents(cluster, first)
    if victim, do: Nodes.kill(victim)
    start_agents(cluster, second)
    {settle(cluster, modules), Enum.count(started, &(node(&1) == victim))}
  end

  defp start_agents(cluster, modules) do
    modules
    |> Task.async_stream(&start_agent(cluster, &1), max_concurrency: 50, timeout: @settle_ms)
    |> Enum.map(fn {:ok, agent} -> agent end)
  end

  # A node that has just gone is still a home for a moment.
  defp start_agent(cluster, module) do
    case Agent.ensure(cluster, module) do
      {:ok, agent} ->
        agent

      {:error, _reason} ->
        Process.sleep(10)
        start_agent(cluster, module)
    end
  end

  # The work is done when each module has an agent, and exactly these agents have confirmed every
  # call to each other.
  defp settle(cluster, modules) do
    deadline = System.monotonic_time(:millisecond) + @settle_ms
    settle(cluster, modules, deadline)
  end

  defp settle(cluster, modules, deadline) do
    agents = Enum.zip(modules, start_agents(cluster, modules))

    case settled(agents, Map.new(agents)) do
      {:ok, agents} ->
        agents

      :busy ->
        if System.monotonic_time(:millisecond) > deadline, do: raise("the agents do not settle")
        Process.sleep(50)
        settle(cluster, modules, deadline)
    end
  end

  defp settled(agents, by_module) do
    outside =
      for {module, agent} <- agents do
        with {:settled, told, outside} <- progress(agent),
             true <- Enum.all?(told, fn {module, pid} -> by_module[module] == pid end),
             do: {module, {agent, outside}}
      end

    if Enum.all?(outside, &is_tuple/1), do: {:ok, outside}, else: :busy
  end

  defp progress(agent) do
    Agent.progress(agent)
  catch
    # Its node has just been killed, or it has lost a conflict.
    :exit, _gone -> :busy
  end

  defp result(agents) do
    outside = for {_module, {_agent, outside}} <- agents, reduce: 0, do: (sum -> sum + outside)

    {Map.new(agents, fn {module, {agent, _outside}} -> {module, Agent.callers(agent)} end),
     outside}
  end

  defp text(report) do
    """
    #{Format.integer(report.modules)} modules on three nodes, #{killed(report)}
    #{Format.integer(report.calls)} calls between them, #{Format.integer(report.outside)} to others
    agents at the end: #{agents(report)}
    #{Format.figure(report.seconds.agents)} s, sequentially #{Format.figure(report.seconds.sequential)} s
    #{verdict(report)}
    """
  end

  defp killed(%{killed: nil}), do: "none of them killed"

  defp killed(report),
    do: "one killed in the middle with #{Format.integer(report.lost)} of the first agents"

  defp agents(report) do
    Enum.map_join(Enum.sort(report.agents), ", ", fn {node, count} ->
      "#{Format.integer(count)} on #{node}"
    end)
  end

  defp verdict(%{equal: true}), do: "Right: equal to the sequential computation"
  defp verdict(_report), do: "WRONG: not equal to the sequential computation"
end
