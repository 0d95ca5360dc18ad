defmodule Foundation.MigratingTest do
  # Not async: walks through the flags, and takes the log for itself.
  use Foundation.Case, async: false

  import ExUnit.CaptureIO

  for file <- ["before.ex", "after.ex"], do: Code.require_file("migrating/#{file}", __DIR__)

  @moduletag :capture_log
  @guide "guides/migrating.md"

  setup do
    on_exit(fn -> Foundation.FeatureFlags.boot() end)
  end

  test "the walk through the stages prints what the guide says" do
    printed = capture_io(fn -> Code.eval_file("test/migrating/walk.exs") end)
    assert_in_guide(printed, "text")
  end

  test "the audit finds what the guide says in the code before, and nothing in the code after" do
    audit = fn file -> Mix.Task.rerun("foundation.audit", [file]) end

    printed =
      capture_io(fn -> assert catch_exit(audit.("test/migrating/before.ex")) == {:shutdown, 1} end)

    short = printed |> String.split("\n") |> Enum.map_join("\n", &hd(String.split(&1, " - ")))
    assert_in_guide(short, "text")
    assert capture_io(fn -> audit.("test/migrating/after.ex") end) =~ "No use"
  end

  test "the guide shows the code after as it is" do
    assert_in_guide(File.read!("test/migrating/after.ex"), "elixir")
  end

  for fleet <- [Fleet.Before, Fleet.After], stage <- 1..4 do
    test "#{inspect(fleet)} does its work at stage #{stage}" do
      {:ok, _stage} = Foundation.Migration.to_stage(unquote(stage))
      fleet = unquote(fleet)
      test = self()
      id = make_ref()
      :telemetry.attach(id, [:fleet, :told], &__MODULE__.tell/4, test)
      on_exit(fn -> :telemetry.detach(id) end)

      name = {fleet, unquote(stage)}
      pid = fleet.start_agent(name)
      assert fleet.agent(name) == {:ok, pid}
      assert fleet.agent("nobody") == {:error, :not_found}
      assert fleet.request("r-1", fn -> fleet.work("planner") end) == :ok
      for _again <- 1..3, do: assert(fleet.notify(:told, %{name: name}) == :ok)
      assert_received {:told, %{name: ^name}}
      refute_received {:told, _metadata}
      Process.exit(pid, :kill)
    end
  end

  def tell(_event, %{count: 1}, metadata, test), do: send(test, {:told, metadata})

  defp assert_in_guide(text, language) do
    assert String.contains?(File.read!(@guide), "```#{language}\n#{String.trim(text)}\n```")
  end
end
