defmodule Foundation.EventLog.NodeDeathTest do
  use Foundation.Case, async: true

  alias Foundation.EventLog
  alias Foundation.Test.{DoomedNode, LogWriters}

  @moduletag :tmp_dir
  @moduletag timeout: 600_000

  # FOUNDATION_DEATHS=50 for the long form.
  @deaths String.to_integer(System.get_env("FOUNDATION_DEATHS", "8"))

  test "a node killed #{@deaths} times under 16 writers loses nothing that it acknowledged",
       %{tmp_dir: dir} do
    Enum.reduce(1..@deaths, %{versions: %{}, got: []}, fn _round, known ->
      known = live_and_die(dir, %{known | got: []})
      log = unique_name("log")
      start_supervised!({EventLog, name: log, dir: dir}, id: log)
      check(log, known.versions)
      known = Map.put(known, :next, check_subscription(log, known))
      :ok = stop_supervised(log)
      known
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

  # The node's subscriber got every event from the one on at which the round before had stopped.
  # Here the subscription resumes after the last one, or earlier: acknowledgements of the last
  # moments were not durable when the node died. Returns the event at which the next node has to
  # resume.
  defp check_subscription(log, %{got: got} = known) do
    next = Map.get(known, :next, 1)
    assert got == Enum.to_list(next..(next + length(got) - 1)//1)

    {:ok, subscription} = EventLog.subscribe(log, :all, :follower, max_in_flight: 1)
    # There is something to deliver.
    version = EventLog.version(log, "last") + 1
    {:ok, ^version} = EventLog.append(log, "last", [{:written, {"last", version, 1, 1}}])
    assert_receive {:events, ^subscription, [event]}, 60_000
    assert event.position in next..(next + length(got))
    # This acknowledgement is durable at the orderly stop.
    :ok = EventLog.ack(subscription, event)
    event.position + 1
  end

  # Runs a node until it has acknowledged some appends, kills it, and notes what it printed.
  defp live_and_die(dir, known) do
    node = DoomedNode.start(LogWriters, dir)

    known =
      Enum.reduce(1..(20 + :rand.uniform(600)), known, fn _, known ->
        note(DoomedNode.line(node), known)
      end)

    known = DoomedNode.kill(node, known, &note/2)
    %{known | got: Enum.reverse(known.got)}
  end

  defp note("got " <> position, known),
    do: %{known | got: [String.to_integer(position) | known.got]}

  defp note(line, known) do
    [stream, version] = String.split(line)
    put_in(known.versions[stream], String.to_integer(version))
  end
end
