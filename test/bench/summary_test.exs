defmodule Foundation.Bench.SummaryTest do
  use ExUnit.Case, async: true

  Code.require_file("../../bench/support/command.exs", __DIR__)

  @benchmarks File.read!("BENCHMARKS.md")
  @readme File.read!("README.md")

  test "the summary of BENCHMARKS.md equals the one computed from its results" do
    assert Bench.Summary.benchmarks(@benchmarks) == @benchmarks,
           "run script/bench --record: the summary and the results of BENCHMARKS.md differ"
  end

  test "the figures of README.md equal those of BENCHMARKS.md" do
    assert Bench.Summary.readme(@readme, @benchmarks) == @readme,
           "run script/bench --record: the figures of README.md and BENCHMARKS.md differ"
  end

  test "a result in which Foundation costs more is in the summary, in bold" do
    [_heading, line | _] =
      for "| `lookup` " <> _ = line <- String.split(@benchmarks, "\n"), do: line

    slower = String.replace(line, ~r/(\| \d+)(\.\d+) \|/, "| 0.50 |")

    [summary | _] =
      String.split(Bench.Summary.benchmarks(String.replace(@benchmarks, line, slower)), "## ")

    assert summary =~ ~r/\| slower: `lookup`[^\n]*\*\*0\.50\*\*/
  end
end
