defmodule Foundation.EventLog.NodeDeathTest do
  use Foundation.Case, async: true

  alias Foundation.EventLog

  @moduletag :tmp_dir
  @moduletag timeout: 300_000

  # FOUNDATION_DEATHS=50 for the long form.
  @deaths String.to_integer(System.get_env("FOUNDATION_DEATHS", "8"))

  test "a node killed #{@deaths} times under 16 writers loses nothing that it acknowledged",
       %{tmp_dir: dir} do
    Enum.reduce(1..@deaths, %{}, fn _round, acknowledged ->
      acknowledged = Map.merge(acknowledged, live_and_die(dir))
      log = unique_name("log")
      start_supervised!({EventLog, name: log, dir: dir}, id: log)
      check(log, acknowledged)
      :ok = stop_supervised(log)
      acknowledged
    end)
  end

  defp check(log, acknowledged) do
    assert EventLog.verify(log) == :ok

    for {stream, version} <- acknowledged do
      assert EventLog.version(log, stream) >= version
    end

    events = Enum.to_list(EventLog.stream(log, :all))
    assert Enum.map(events, & &1.position) == Enum.to_list(1..length(events)//1)

    for {stream, events} <- Enum.group_by(events, & &1.stream) do
      assert Enum.map(events, & &1.version) == Enum.to_list(1..length(events)//1)

      for %{version: version, data: data} <- events do
        assert {^stream, ^version, index, count} = data
        assert index <= count
      end

      # Of the last append all events are there.
      assert {_stream, _version, count, count} = List.last(events).data
      assert EventLog.read(log, stream, limit: 1_000_000) == events
    end
  end

  # Runs a node until it has acknowledged some appends, kills it, and returns the last version of
  # each stream that it acknowledged.
  defp live_and_die(dir) do
    port = start_node(dir)
    {:os_pid, os_pid} = Port.info(port, :os_pid)

    acknowledged =
      Enum.reduce(1..(20 + :rand.uniform(300)), %{}, fn _, all -> note(line(port), all) end)

    {_output, 0} = System.cmd("kill", ["-9", "#{os_pid}"])
    drain(port, acknowledged)
  end

  defp note(line, acknowledged) do
    [stream, version] = String.split(line)
    Map.put(acknowledged, stream, String.to_integer(version))
  end

  # The node may have written more to its pipe before it died.
  defp drain(port, acknowledged) do
    receive do
      {^port, {:data, {:eol, line}}} -> drain(port, note(line, acknowledged))
      {^port, {:data, {:noeol, _cut}}} -> drain(port, acknowledged)
      {^port, {:exit_status, 137}} -> acknowledged
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
          ["-noinput", "-run", "Elixir.Foundation.Test.LogWriters", "main", dir]
    ])
  end
end
