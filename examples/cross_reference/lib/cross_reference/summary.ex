defmodule CrossReference.Summary do
  @moduledoc false
  # The report of a run, for a person and for a file.

  import CrossReference.Format

  @most_called 10
  @callers 25
  @label 22

  @doc "Returns the report as text; `module` is the one whose callers it lists, or nil."
  @spec text(map, module | nil) :: iodata
  def text(report, module) do
    [
      "\n",
      most_called(report),
      if(module, do: callers(report, module), else: []),
      result(report),
      registry(report),
      telemetry(report.telemetry),
      comparison(report.comparison),
      verdict(report)
    ]
  end

  @doc "Returns the report as a term for `Foundation.JSON`."
  @spec json(map, module | nil) :: keyword
  def json(report, module) do
    [
      engine: report.engine,
      otp: System.otp_release(),
      elixir: System.version(),
      schedulers: System.schedulers_online(),
      seed: report.seed,
      equal: report.equal,
      fits: report.fits,
      modules: report.modules,
      applications: report.applications,
      calls: report.calls,
      calls_outside: report.outside,
      calls_told: report.told,
      agents_killed: report.victims,
      owners_killed: report.owners_killed,
      agent_starts: report.starts,
      registrations: report.registrations,
      cleanups: report.cleanups,
      registries:
        for(
          r <- report.registries,
          do: [name: inspect(r.name), entries: r.entries, memory_bytes: r.memory, drops: r.drops]
        ),
      lookups: Map.put(report.lookups, :missed, report.missed),
      telemetry: report.telemetry,
      comparison:
        for(
          c <- report.comparison,
          do: [subject: c.subject, lookup_ns: c.ns, times_foundation: c.times]
        ),
      seconds: report.seconds,
      most_called:
        for(
          {m, calls, callers} <- most(report),
          do: [module: inspect(m), calls: calls, callers: callers]
        ),
      callers_of:
        module &&
          [
            module: inspect(module),
            callers: for({m, n} <- callers_of(report, module), do: [module: inspect(m), calls: n])
          ]
    ]
  end

  defp most_called(report) do
    rows =
      for {module, calls, callers} <- most(report) do
        [inspect(module), integer(calls), integer(callers)]
      end

    table(["Most called", "calls", "callers"], rows)
  end

  defp most(report) do
    report.result
    |> Enum.map(fn {module, calls} -> {module, MapSet.size(calls), length(by_caller(calls))} end)
    |> Enum.sort_by(fn {module, calls, _callers} -> {-calls, module} end)
    |> Enum.take(@most_called)
  end

  defp callers(report, module) do
    all = callers_of(report, module)
    total = report.result |> Map.fetch!(module) |> MapSet.size()

    rows = for {caller, calls} <- Enum.take(all, @callers), do: [inspect(caller), integer(calls)]

    [
      table(["Callers of #{inspect(module)}", "calls"], [["all", integer(total)] | rows], ""),
      more(length(all) - @callers),
      "\n"
    ]
  end

  defp more(n) when n > 0, do: "  and #{integer(n)} more; --json FILE has them all\n"
  defp more(_none), do: []

  defp callers_of(report, module) do
    report.result
    |> Map.fetch!(module)
    |> by_caller()
    |> Enum.sort_by(fn {caller, calls} -> {-calls, caller} end)
  end

  defp by_caller(calls) do
    calls
    |> Enum.frequencies_by(fn {caller, _function, _arity, _site} -> caller end)
    |> Map.to_list()
  end

  defp result(report) do
    again = report.told - report.calls

    [
      "  Result\n",
      line("calls", [
        integer(report.calls),
        "  between modules, ",
        integer(report.outside),
        " to modules outside"
      ]),
      line("told", [
        integer(report.told),
        "  times; ",
        integer(again),
        " again after a death, counted once"
      ]),
      line("agents, in parallel", duration(report.seconds.agents * 1.0e9)),
      line("plain, sequential", duration(report.seconds.sequential * 1.0e9)),
      "\n"
    ]
  end

  defp registry(report) do
    [
      "  Registry (#{report.engine} engine)\n",
      line("registrations", [integer(report.registrations), "  of agents, in two registries each"]),
      line("deaths", [
        integer(report.victims),
        "  killed at random, ",
        integer(report.modules),
        " stopped at the end"
      ]),
      line("owners killed", [integer(report.owners_killed), "  with every entry in place"]),
      line("clean-ups", integer(report.cleanups)),
      for registry <- report.registries do
        line("entries left", [
          integer(registry.entries),
          "  in ",
          inspect(registry.name),
          ", ",
          bytes(registry.memory)
        ])
      end,
      line("lookups", [
        integer(report.lookups.count),
        "  at ",
        integer(report.lookups.per_second),
        "/s amid the work, ",
        integer(report.missed),
        " while an agent was away"
      ]),
      line("lookup p50, p99", [
        duration(report.lookups.p50_ns),
        ", ",
        duration(report.lookups.p99_ns),
        ", clock included"
      ]),
      "\n"
    ]
  end

  defp telemetry(%{call: call, recorded: recorded, batches: batches, spans: spans}) do
    [
      "  Telemetry\n",
      line("calls recorded", [
        integer(recorded.offered),
        "  times, an event each, batched and deduplicated"
      ]),
      line("deduplicated", [
        integer(call.emitted),
        "  emitted, one a call; ",
        integer(call.suppressed),
        " repeats suppressed"
      ]),
      line("batched", [
        integer(recorded.emitted),
        "  emitted in ",
        integer(batches.count),
        " batches, ",
        integer(recorded.dropped),
        " dropped, ",
        integer(recorded.pending),
        " pending"
      ]),
      line("spans", [
        integer(spans.span_starts),
        "  started, ",
        integer(spans.span_stops),
        " ended, ",
        integer(spans.spans_abandoned),
        " abandoned by killed agents"
      ]),
      "\n"
    ]
  end

  defp comparison([]), do: []

  defp comparison(comparison) do
    rows =
      for %{subject: subject, ns: ns, times: times} <- comparison do
        [name(subject), duration(ns), integer(round(1.0e9 / ns)), figure(times)]
      end

    table(["The same lookups", "each", "a second", "times ours"], rows)
  end

  defp name(:foundation), do: "Foundation.Registry"
  defp name(:registry), do: "Elixir's Registry"
  defp name(:ets), do: "ETS, no liveness"

  defp verdict(%{equal: true, fits: true, telemetry: %{fits: true}}) do
    "Right: equal to the sequential computation, and every registration and event is accounted for.\n"
  end

  defp verdict(report) do
    [
      if(report.equal,
        do: [],
        else: ["WRONG: differs from the sequential computation\n", differences(report)]
      ),
      if(report.fits, do: [], else: "WRONG: registrations, deaths and entries do not add up\n"),
      if(report.telemetry.fits, do: [], else: "WRONG: the events' counters do not add up\n")
    ]
  end

  defp differences(report) do
    for {module, expected} <- Enum.sort(report.expected),
        found = Map.get(report.result, module, MapSet.new()),
        found != expected do
      missing = expected |> MapSet.difference(found) |> MapSet.size()
      extra = found |> MapSet.difference(expected) |> MapSet.size()
      "  #{inspect(module)}: #{integer(missing)} calls missing, #{integer(extra)} too many\n"
    end
  end

  defp line(label, text), do: ["  ", String.pad_trailing(label, @label), text, "\n"]

  # The first column is text, the others are numbers.
  defp table(heading, rows, ending \\ "\n") do
    widths =
      [heading | rows]
      |> Enum.zip_with(fn column -> column |> Enum.map(&String.length/1) |> Enum.max() end)

    [header | body] =
      for [first | rest] <- [heading | rows] do
        [width | widths] = widths
        numbers = Enum.zip_with(rest, widths, &["  ", String.pad_leading(&1, &2)])
        [String.pad_trailing(first, width + 2), numbers, "\n"]
      end

    [["  " | header], Enum.map(body, &["  " | &1]), ending]
  end
end
