defmodule CrossReference.ClusterTest do
  # Not async: this makes the VM a node.
  use ExUnit.Case

  import ExUnit.CaptureIO

  alias CrossReference.{Cluster, Input}

  @moduletag :capture_log
  @moduletag timeout: 300_000

  test "the result is right though a node is killed in the middle, with its agents" do
    report = Cluster.run(Enum.take(Input.sources(), 120), true)
    assert report.equal
    assert report.lost > 0
    assert length(report.members) == 2
    assert Enum.sum(Map.values(report.agents)) == 120
    refute is_map_key(report.agents, report.killed)
  end

  test "an option that is not understood ends the command with status 2" do
    for argv <- [["--modules", "0"], ["--kill", "2"], ["--knll", "1"], ["x"]] do
      usage =
        capture_io(:stderr, fn -> assert catch_exit(Cluster.command(argv)) == {:shutdown, 2} end)

      assert usage =~ "Usage: script/cluster_demo"
    end

    assert capture_io(fn -> Cluster.command(["--help"]) end) =~ "--modules N"
  end
end
