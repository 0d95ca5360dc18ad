defmodule Foundation.Test.LogWriters do
  @moduledoc """
  Writers and a subscriber of an event log, on a node that a test kills.

  The node prints `STREAM VERSION` after each acknowledged append, and `got POSITION` for each event
  that the subscription delivers, before the subscriber acknowledges it.
  """

  alias Foundation.EventLog

  @log :killed
  @writers 16

  @doc "Runs until the node is killed. Takes the directory as a charlist or an atom."
  @spec main([charlist | atom]) :: no_return
  def main([dir]) do
    {:ok, _apps} = Application.ensure_all_started(:foundation)
    options = [name: @log, dir: to_string(dir), segment_bytes: 20_000]
    {:ok, _owner} = EventLog.start_link(options)
    spawn_link(&subscribe/0)
    for number <- 1..@writers, do: spawn_link(fn -> write("stream-#{number}") end)
    Process.sleep(:infinity)
  end

  # Appends of one, two and three events. Their data says where they belong.
  defp write(stream) do
    version = EventLog.version(@log, stream)
    count = rem(version, 3) + 1
    events = for index <- 1..count, do: {:written, {stream, version + index, index, count}}
    {:ok, last} = EventLog.append(@log, stream, events, expected: version)
    say("#{stream} #{last}")
    write(stream)
  end

  defp subscribe do
    {:ok, subscription} = EventLog.subscribe(@log, :all, :follower)
    follow(subscription)
  end

  defp follow(subscription) do
    receive do
      {:events, ^subscription, events} ->
        for event <- events, do: say("got #{event.position}")
        :ok = EventLog.ack(subscription, List.last(events))
        follow(subscription)
    end
  end

  defp say(line), do: :io.put_chars(:user, [line, ?\n])
end
