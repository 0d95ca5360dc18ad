defmodule CrossReference.Run do
  @moduledoc false
  # One run of the demo, from the start of the agents to the report.

  alias Foundation.AgentRegistry
  alias CrossReference.{Agent, Await, Chaos, Comparison, Events, Format, Input, Options}
  alias CrossReference.{Progress, Tally}
  alias CrossReference.Supervisor, as: Agents

  @agent_registry :foundation_agent_registry
  @compared_lookups 20_000

  @type calls :: %{module => MapSet.t({module, atom, arity, pos_integer})}

  @doc """
  Runs the demo on `sources` and returns its report.

  `report.equal` says whether the agents found what `sequential` finds in the same sources, and
  `report.fits` whether the counts of registrations, deaths and entries add up.
  """
  @spec run(Options.t(), [Input.Source.t()], ([Input.Source.t()] -> {calls, non_neg_integer})) ::
          map
  def run(%Options{} = options, sources, sequential \\ &sequential/1) do
    progress = Progress.new()
    tally = Tally.new()
    victims = Chaos.victims(Enum.map(sources, & &1.module), options.kill, options.seed)
    before = AgentRegistry.count()

    :ok = Tally.attach(tally)
    events = Events.attach(tally)
    {:ok, supervisor} = Agents.start_link(length(victims) + 1)

    try do
      scope = %Agent.Scope{
        registry: Agents.registry(),
        tally: tally,
        gate: :atomics.new(1, []),
        run: System.unique_integer()
      }

      start_agents(scope, sources)
      Progress.done(progress, "#{Format.integer(length(sources))} agents registered")

      {work_us, {calls, outside}} =
        :timer.tc(fn ->
          work(scope, sources, victims, progress)
          settle(scope, sources)
        end)

      Progress.done(progress, working(scope, sources, victims, length(victims)) <> ", settled")

      registries = registries(scope, before)
      comparison = compare(scope, sources, calls, options.seed)
      Progress.done(progress, "lookups compared with Registry and ETS")

      emptied? = stop_agents(scope, before)
      found = calls |> Map.values() |> Enum.map(&MapSet.size/1) |> Enum.sum()
      telemetry = Events.report(tally, events, found, length(victims))
      {sequential_us, expected} = :timer.tc(fn -> sequential.(sources) end)
      Progress.done(progress, "computed again, sequentially")

      %{
        engine: Foundation.engine(),
        seed: options.seed,
        modules: length(sources),
        applications: sources |> Enum.uniq_by(& &1.application) |> length(),
        result: calls,
        calls: found,
        telemetry: telemetry,
        outside: outside,
        told: Tally.get(tally, :told),
        equal: {calls, outside} == expected,
        expected: elem(expected, 0),
        victims: length(victims),
        owners_killed: length(owners(victims)),
        starts: Tally.get(tally, :starts),
        registrations: Tally.get(tally, :registrations),
        cleanups: Tally.get(tally, :cleanups),
        missed: Tally.get(tally, :missed),
        registries: registries,
        fits: fits?(tally, registries, sources, victims, emptied?),
        lookups: %{
          count: Tally.lookups(tally),
          per_second: round(Tally.lookups(tally) / (work_us / 1_000_000)),
          p50_ns: Tally.percentile(tally, 50),
          p99_ns: Tally.percentile(tally, 99)
        },
        comparison: comparison,
        seconds: %{agents: work_us / 1_000_000, sequential: sequential_us / 1_000_000}
      }
    after
      Supervisor.stop(supervisor)
      Tally.detach(tally)
      Events.detach(tally)
    end
  end

  @doc """
  Computes what the agents compute, in one process and without a registry.

  Returns the calls into each module, and how many lead to modules that take no part.
  """
  @spec sequential([Input.Source.t()]) :: {calls, non_neg_integer}
  def sequential(sources) do
    none = Map.new(sources, &{&1.module, MapSet.new()})

    for source <- sources,
        {callee, function, arity, site} <- Input.calls(source),
        reduce: {none, 0} do
      {calls, outside} ->
        case calls do
          %{^callee => callers} ->
            call = {source.module, function, arity, site}
            {%{calls | callee => MapSet.put(callers, call)}, outside}

          %{} ->
            {calls, outside + 1}
        end
    end
  end

  defp start_agents(scope, sources) do
    for source <- sources do
      Foundation.Registry.put_meta(scope.registry, {:taking_part, source.module}, true)
    end

    agents = Enum.map(sources, &Agents.start_agent(scope, &1))
    :atomics.put(scope.gate, 1, 1)
    Enum.each(agents, &Agent.go/1)
  end

  defp work(scope, sources, victims, progress) do
    killed = :counters.new(1, [])

    chaos =
      Task.async(fn ->
        Chaos.run(victims, owners(victims), scope.tally, length(sources), fn n ->
          :counters.put(killed, 1, n)
        end)
      end)

    watch(scope, sources, progress, chaos, fn ->
      working(scope, sources, victims, :counters.get(killed, 1))
    end)
  end

  # Each agent that is alive at the end has gone through its module once.
  defp watch(scope, sources, progress, chaos, line) do
    progress = Progress.tick(progress, line)
    chaos = chaos && if Task.yield(chaos, 20), do: nil, else: chaos

    if chaos || Tally.get(scope.tally, :passes) < length(sources) do
      Process.sleep(1)
      watch(scope, sources, progress, chaos, line)
    end
  end

  defp owners([]), do: []
  defp owners(_victims), do: [Agents.registry(), @agent_registry]

  defp working(scope, sources, victims, killed) do
    passes = min(Tally.get(scope.tally, :passes), length(sources))

    "#{Format.integer(passes)} of #{Format.integer(length(sources))} modules read, " <>
      "#{Format.integer(killed)} of #{Format.integer(length(victims))} agents killed, " <>
      "#{Format.integer(Tally.lookups(scope.tally))} lookups"
  end

  # The kills are over, so each module keeps its agent to the end. The work is done when exactly
  # these agents have confirmed every call.
  defp settle(scope, sources) do
    agents = Map.new(sources, &{&1.module, whereis(scope, &1.module)})

    outside =
      for {_module, agent} <- agents, reduce: 0 do
        sum -> sum + settled(agent, agents)
      end

    {Map.new(agents, fn {module, agent} -> {module, Agent.callers(agent)} end), outside}
  end

  defp whereis(scope, module) do
    [{agent, _info}] = Foundation.Registry.lookup(scope.registry, {:module, module})
    agent
  end

  defp settled(agent, agents) do
    Await.until!("calls to be confirmed", fn ->
      case Agent.progress(agent) do
        :busy ->
          false

        {:settled, told, _outside} ->
          Enum.all?(told, fn {module, pid} -> agents[module] == pid end)
      end
    end)

    {:settled, _told, outside} = Agent.progress(agent)
    outside
  end

  defp registries(scope, before) do
    for {name, before} <- [{scope.registry, 0}, {@agent_registry, before}] do
      info = Foundation.Registry.info(name)
      %{name: name, entries: info.size - before, memory: info.memory, drops: info.drops}
    end
  end

  defp fits?(tally, registries, sources, victims, emptied?) do
    starts = length(sources) + length(victims)

    emptied? and
      Tally.get(tally, :starts) == starts and
      Tally.get(tally, :registrations) == starts and
      Tally.get(tally, :cleanups) == starts and
      Enum.all?(registries, &(&1.entries == length(sources)))
  end

  defp compare(scope, sources, calls, seed) do
    registry = CrossReference.ElixirRegistry
    table = CrossReference.EtsTable

    # It is left running: Elixir's Registry is linked to the processes in it, and would
    # take the agents along.
    {:ok, _pid} = Supervisor.start_child(Agents, {Registry, keys: :unique, name: registry})
    :ets.new(table, [:named_table, :public, read_concurrency: true])

    for source <- sources do
      agent = whereis(scope, source.module)
      :ok = Agent.join(agent, registry)
      :ets.insert(table, {{:module, source.module}, agent, %{application: source.application}})
    end

    # The keys that the agents looked up, as often as they did, in random order.
    keys =
      for({module, callers} <- calls, _call <- callers, do: {:module, module})
      |> Chaos.shuffle(seed)
      |> Enum.take(@compared_lookups)

    result = if keys == [], do: [], else: Comparison.run(keys, scope.registry, registry, table)

    :ets.delete(table)
    result
  end

  # Counts and events of clean-up come after the deaths, by milliseconds.
  defp stop_agents(scope, before) do
    :ok = Agents.stop_agents()

    Await.within?(5_000, fn ->
      Foundation.Registry.count(scope.registry) == 0 and AgentRegistry.count() == before and
        Tally.get(scope.tally, :cleanups) >= Tally.get(scope.tally, :starts)
    end)
  end
end
