defmodule Foundation.StateManager.NodeDeathTest do
  use ExUnit.Case, async: true

  alias Foundation.Test.{CheckpointedCounter, DoomedNode}

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  @deaths 50

  test "a node killed #{@deaths} times loses at most what came after its last interval",
       %{tmp_dir: dir} do
    last =
      Enum.reduce(1..@deaths, 0, fn _round, floor ->
        {restored, floor_now} = live_and_die(dir)
        assert restored >= floor, "restored #{restored}, though #{floor} had been checkpointed"
        floor_now
      end)

    assert last > @deaths
  end

  # Runs a node until some checkpoints are written, kills it, and returns what it restored and
  # what its last checkpoint has at least.
  defp live_and_die(dir) do
    node = DoomedNode.start(CheckpointedCounter, dir)
    assert "restored " <> restored = DoomedNode.line(node)
    restored = String.to_integer(restored)

    noted = run(node, {restored, restored}, :rand.uniform(4))

    # At any moment of the next interval and write.
    receive do
    after
      :rand.uniform(8) - 1 -> :ok
    end

    {_last, floor} = DoomedNode.kill(node, noted, &note/2)
    {restored, floor}
  end

  defp run(_node, noted, 0), do: noted

  defp run(node, noted, checkpoints) do
    case DoomedNode.line(node) do
      "saved" -> run(node, note("saved", noted), checkpoints - 1)
      did -> run(node, note(did, noted), checkpoints)
    end
  end

  # The last count, and the one that the last checkpoint has at least.
  defp note("saved", {last, _floor}), do: {last, last}
  defp note("did " <> count, {_last, floor}), do: {String.to_integer(count), floor}
end
