defmodule Foundation.Bench.RunTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureIO

  Code.require_file("../../bench/support/command.exs", __DIR__)

  @run Path.expand("../../bench/run.exs", __DIR__)

  defp run(arguments) do
    paths = Enum.flat_map(:code.get_path(), &["-pa", List.to_string(&1)])
    System.cmd("elixir", paths ++ [@run | arguments], stderr_to_stdout: true)
  end

  for {what, arguments, message} <- [
        {"a row that does not exist", ["lookup", "lokup"], "no row lokup"},
        {"a size that is none", ["--size", "12x", "lookup"], "expected --size to be a number"},
        {"a size that a row cannot have", ["--size", "7", "flag"],
         "flag has no other size than 1"},
        {"a size that is too large", ["--size", "1000M", "lookup"], "expected a size from 1000"},
        {"an option that does not exist", ["--fast"], "unknown option or bad value: --fast"},
        {"rounds that are no number", ["--rounds", "x"], "unknown option or bad value: --rounds"},
        {"an engine that does not exist", ["--engine", "rust"], "expected --engine"},
        {"a file that cannot be written", ["--json", "/dev/null/x", "flag"], "cannot write"},
        {"a picture of what is no file of results", ["--plot", @run], "not a file of --json"},
        {"a plot of nothing", ["--plot"], "--plot needs files"}
      ] do
    test "#{what} is refused" do
      output =
        capture_io(:stderr, fn ->
          assert catch_exit(Bench.Command.main(unquote(arguments))) == {:shutdown, 2}
        end)

      assert output =~ unquote(message)
      assert output =~ "usage: script/bench"
    end
  end

  test "invalid options exit with status 2 and print the reason" do
    assert {output, 2} = run(["lokup"])
    assert output =~ "no row lokup"
  end

  @tag :tmp_dir
  test "the JSON file of a run has an object per result and renders to a table", %{tmp_dir: dir} do
    file = Path.join(dir, "results.json")
    {_output, 0} = run(~w(--quick --rounds 1 --size 1000 lookup_ets --json) ++ [file])
    {:ok, results} = Bench.JSON.decode(File.read!(file))

    assert [%{"variant" => "integer"}, %{"variant" => "binary"}] = results

    for result <- results do
      assert %{"row" => "lookup_ets", "size" => 1_000, "spread" => [low, high]} = result
      assert %{"ours_ns" => ours, "theirs_ns" => theirs, "ratio" => ratio} = result
      assert ours > 0 and theirs > 0 and low <= high
      assert_in_delta ratio, theirs / ours, 0.001 * ratio
    end

    # Side by side with another run.
    table = capture_io(fn -> Bench.Command.main(["--markdown", file, file]) end)

    [_heading, _line | rows] =
      table |> String.split("\n", trim: true) |> Enum.filter(&(&1 =~ ~r/^\|/))

    assert [integer, binary] = rows
    assert integer =~ "| `lookup_ets` | 1,000 | integer |"
    assert binary =~ "| `lookup_ets` | 1,000 | binary |"
    assert length(String.split(integer, "|")) == 2 + 4 + 2 * 5
  end
end
