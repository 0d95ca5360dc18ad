defmodule Foundation.GuidesTest do
  # Runs each guide in a VM of its own, as a reader would. See `Foundation.Guide`.
  use ExUnit.Case, async: true

  for guide <- ["README.md" | Path.wildcard("guides/*.{md,livemd}")] do
    @external_resource guide

    test "the examples of #{guide} give the results that it shows" do
      # A Mix project, for the tasks that a guide calls.
      script = """
      {:ok, _apps} = Application.ensure_all_started(:mix)
      {:ok, _apps} = Application.ensure_all_started(:foundation)
      Foundation.Guide.run(#{inspect(unquote(guide))})
      """

      paths = Enum.flat_map(Path.wildcard("_build/test/lib/*/ebin"), &["-pa", &1])
      {output, status} = System.cmd("elixir", paths ++ ["-e", script], stderr_to_stdout: true)
      assert status == 0, output
    end

    test "every code block of #{guide} is run by a test" do
      prose = Regex.replace(~r/^```.*?^```$/ms, File.read!(unquote(guide)), "")
      refute prose =~ ~r/^\n {4}\S/m, "an indented block: fence it, so that it is run"
    end
  end
end
