defmodule Foundation.StateManager.NodeDeathTest do
  use ExUnit.Case, async: true

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
    port = start_node(dir)
    {:os_pid, os_pid} = Port.info(port, :os_pid)
    assert "restored " <> restored = line(port)
    restored = String.to_integer(restored)

    floor = run(port, restored, restored, :rand.uniform(4))

    # At any moment of the next interval and write.
    receive do
    after
      :rand.uniform(8) - 1 -> :ok
    end

    {_, 0} = System.cmd("kill", ["-9", "#{os_pid}"])
    {restored, drain(port, floor, floor)}
  end

  defp run(_port, _last, floor, 0), do: floor

  defp run(port, last, floor, checkpoints) do
    case line(port) do
      "saved" -> run(port, last, last, checkpoints - 1)
      "did " <> count -> run(port, String.to_integer(count), floor, checkpoints)
    end
  end

  # What it had written to its pipe when it died.
  defp drain(port, last, floor) do
    receive do
      {^port, {:data, {:eol, "saved"}}} -> drain(port, last, last)
      {^port, {:data, {:eol, "did " <> count}}} -> drain(port, String.to_integer(count), floor)
      {^port, {:data, {:noeol, _cut}}} -> drain(port, last, floor)
      {^port, {:exit_status, 137}} -> floor
    after
      10_000 -> flunk("the node did not die")
    end
  end

  defp line(port) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> flunk("the node ended with status #{status}")
    after
      30_000 -> flunk("the node says nothing")
    end
  end

  # Without Elixir's own start-up, which would be most of the time.
  defp start_node(dir) do
    paths =
      for app <- [:elixir, :logger, :telemetry, :foundation] do
        ["-pa", app |> :code.lib_dir() |> Path.join("ebin")]
      end

    Port.open({:spawn_executable, System.find_executable("erl")}, [
      :binary,
      :exit_status,
      {:line, 1000},
      args:
        Enum.concat(paths) ++
          ["-noinput", "-run", "Elixir.Foundation.Test.CheckpointedCounter", "main", dir]
    ])
  end
end
