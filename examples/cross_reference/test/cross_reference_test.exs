defmodule CrossReferenceTest do
  # Not async: it kills the owner of the application's agent registry, and one test
  # restarts the application on another engine.
  use ExUnit.Case

  import ExUnit.CaptureIO

  alias CrossReference.{Chaos, Command, Input, Options, Run, Summary, Tally}

  doctest CrossReference.Format

  @moduletag :tmp_dir

  defp run(argv), do: capture_io(fn -> Command.run(argv) end)

  # The library only encodes; this is just enough to read it back.
  defp decode(json) do
    {value, rest} = value(json)
    assert String.trim(rest) == ""
    value
  end

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("[]" <> rest), do: {[], rest}
  defp value("{}" <> rest), do: {%{}, rest}
  defp value("[" <> rest), do: items(rest, [])
  defp value("{" <> rest), do: pairs(rest, %{})

  defp value("\"" <> rest) do
    [string, rest] = String.split(rest, "\"", parts: 2)
    {string, rest}
  end

  defp value(number) do
    [digits] = Regex.run(~r/^-?[0-9.]+(?:e-?[0-9]+)?/, number)
    {value, ""} = if digits =~ ".", do: Float.parse(digits), else: Integer.parse(digits)
    {value, binary_part(number, byte_size(digits), byte_size(number) - byte_size(digits))}
  end

  defp items(json, items) do
    case value(json) do
      {item, "," <> rest} -> items(rest, [item | items])
      {item, "]" <> rest} -> {Enum.reverse([item | items]), rest}
    end
  end

  defp pairs(json, map) do
    {key, ":" <> rest} = value(json)

    case value(rest) do
      {value, "," <> rest} -> pairs(rest, Map.put(map, key, value))
      {value, "}" <> rest} -> {Map.put(map, key, value), rest}
    end
  end

  test "the result is right while agents and the registries' owners are killed", %{tmp_dir: dir} do
    file = Path.join(dir, "figures.json")

    output = run(~w(--modules 120 --kill 30 --seed 7 --module lists --json) ++ [file])

    assert output =~ "Right: equal to the sequential computation"
    assert output =~ "Callers of :lists"

    figures = decode(File.read!(file))
    assert %{"equal" => true, "fits" => true, "seed" => 7} = figures
    assert %{"modules" => 120, "agents_killed" => 36, "owners_killed" => 2} = figures
    assert %{"agent_starts" => 156, "registrations" => 156, "cleanups" => 156} = figures
    assert [%{"entries" => 120}, %{"entries" => 120}] = figures["registries"]
    # Agents that were killed after they had told have told again.
    assert figures["calls_told"] > figures["calls"]
    assert %{"p50_ns" => p50, "p99_ns" => p99, "count" => count} = figures["lookups"]
    assert p50 in 1..p99
    assert count >= figures["calls_told"]

    assert ["foundation", "registry", "ets"] = Enum.map(figures["comparison"], & &1["subject"])
    assert %{"module" => ":lists", "callers" => [_ | _]} = figures["callers_of"]
  end

  test "nothing is killed with --kill 0, and nothing is told twice" do
    output = run(~w(--modules 40 --kill 0))
    assert output =~ ~r/deaths +0  killed/
    assert output =~ ~r/owners killed +0 /
    assert output =~ ~r/; 0 again after a death/
  end

  test "every agent may die" do
    assert run(~w(--modules 30 --kill 100)) =~ "Right:"
  end

  test "it runs on the engine that is asked for" do
    on_exit(fn ->
      Application.stop(:foundation)
      Application.delete_env(:foundation, :engine)
      {:ok, _started} = Application.ensure_all_started(:foundation)
    end)

    output =
      capture_io(fn -> capture_log(fn -> Command.run(~w(--modules 40 --engine ets)) end) end)

    assert output =~ "engine ets"
    assert output =~ "Right:"
  end

  defp capture_log(fun), do: ExUnit.CaptureLog.capture_log(fun)

  test "a wrong result is named, and the status is 1" do
    sources = Enum.take(Input.sources(), 30)
    {:ok, options} = Options.parse(~w(--kill 0))

    wrong = fn sources ->
      {calls, outside} = Run.sequential(sources)
      {Map.update!(calls, :erlang, &MapSet.delete(&1, Enum.at(&1, 0))), outside}
    end

    capture_io(fn -> send(self(), {:report, Run.run(options, sources, wrong)}) end)
    assert_received {:report, report}
    refute report.equal

    output =
      capture_io(fn ->
        assert catch_exit(Command.conclude(report, options, nil)) == {:shutdown, 1}
      end)

    assert output =~ "WRONG: differs from the sequential computation\n"
    assert output =~ ":erlang: 0 calls missing, 1 too many"
  end

  test "registrations that do not add up are named, and the status is 1" do
    {:ok, options} = Options.parse(~w(--kill 0))
    sources = Enum.take(Input.sources(), 20)
    capture_io(fn -> send(self(), {:report, Run.run(options, sources)}) end)
    assert_received {:report, report}

    output =
      capture_io(fn ->
        report = %{report | fits: false}
        assert catch_exit(Command.conclude(report, options, nil)) == {:shutdown, 1}
      end)

    assert output =~ "WRONG: registrations, deaths and entries do not add up"
  end

  for argv <- [
        ~w(--modles 10),
        ~w(--modules 0),
        ~w(--modules ten),
        ~w(--modules),
        ~w(--kill 101),
        ~w(--kill -1),
        ~w(--engine rust),
        ~w(--seed -1),
        ~w(--module no_such_module),
        ~w(--json /no/such/directory/file),
        ~w(--json /),
        ~w(extra)
      ] do
    test "#{Enum.join(argv, " ")} prints the usage to standard error, with status 2" do
      error =
        capture_io(:stderr, fn ->
          assert catch_exit(Command.run(unquote(argv))) == {:shutdown, 2}
        end)

      assert error =~ "Usage: script/demo"
    end
  end

  test "an option that is nearly right is suggested" do
    assert Options.parse(~w(--modles 10)) ==
             {:error, "unknown option --modles, did you mean --modules?"}
  end

  test "the same seed kills the same agents" do
    modules = Enum.map(Input.sources(), & &1.module)
    victims = Chaos.victims(modules, 10, 42)
    assert length(victims) == round(length(modules) / 10)
    assert victims == Enum.uniq(victims)
    assert victims == Chaos.victims(modules, 10, 42)
    refute victims == Chaos.victims(modules, 10, 43)
  end

  test "choosing victims leaves the process dictionary alone" do
    before = Process.get()
    Chaos.victims([:a, :b, :c], 100, 1)
    assert Process.get() == before
  end

  test "percentiles are within the width of a bucket" do
    tally = Tally.new()

    for n <- 1..1000,
        do: Tally.lookup(tally, System.convert_time_unit(n * 1000, :nanosecond, :native))

    assert Tally.lookups(tally) == 1000
    assert_in_delta Tally.percentile(tally, 50), 500_000, 500_000 * 0.04
    assert_in_delta Tally.percentile(tally, 99), 990_000, 990_000 * 0.04
  end

  test "durations below 32 ns are exact, and a clock that stands still counts" do
    tally = Tally.new()
    for n <- 0..31, do: Tally.lookup(tally, n)
    assert Tally.percentile(tally, 100) == System.convert_time_unit(31, :native, :nanosecond)
    assert Tally.percentile(tally, 1) == 0
  end

  test "events that do not add up are named, and the status is 1" do
    {:ok, options} = Options.parse(~w(--modules 20 --kill 0))
    sources = Enum.take(Input.sources(), 20)
    capture_io(fn -> send(self(), {:report, Run.run(options, sources)}) end)
    assert_received {:report, report}
    assert %{fits: true, call: %{emitted: calls}} = report.telemetry
    assert calls == report.calls

    output =
      capture_io(fn ->
        report = put_in(report.telemetry.fits, false)
        assert catch_exit(Command.conclude(report, options, nil)) == {:shutdown, 1}
      end)

    assert output =~ "WRONG: the events' counters do not add up"
  end

  test "a report without lookups has no comparison" do
    text = Summary.text(report_without_calls(), nil)
    refute IO.iodata_to_binary(text) =~ "The same lookups"
  end

  defp report_without_calls do
    {:ok, options} = Options.parse(~w(--kill 0))
    source = Enum.find(Input.sources(), &(&1.module == :erlang))
    capture_io(fn -> send(self(), {:alone, Run.run(options, [source])}) end)
    assert_received {:alone, report}
    report
  end
end
