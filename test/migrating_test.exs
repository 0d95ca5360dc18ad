defmodule Foundation.MigratingTest do
  # Not async: changes the flags. `Foundation.GuidesTest` runs the code in the guide.
  use Foundation.Case, async: false

  import ExUnit.CaptureIO

  for file <- ["before.ex", "after.ex"], do: Code.require_file("migrating/#{file}", __DIR__)

  @moduletag :capture_log
  @guide "guides/migrating.md"

  setup do
    on_exit(fn -> Foundation.FeatureFlags.boot() end)
  end

  test "the audit finds nothing in the migrated code" do
    assert capture_io(fn -> Mix.Task.rerun("foundation.audit", ["test/migrating/after.ex"]) end) =~
             "No use"
  end

  test "the guide shows the migrated code verbatim" do
    code = String.trim(File.read!("test/migrating/after.ex"))
    assert String.contains?(File.read!(@guide), "```elixir\n#{code}\n```")
  end

  for fleet <- [Fleet.Before, Fleet.After], stage <- 1..4 do
    test "#{inspect(fleet)} works at stage #{stage}" do
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
end
