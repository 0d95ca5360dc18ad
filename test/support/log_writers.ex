defmodule Foundation.Test.LogWriters do
  @moduledoc """
  The main function of a node that `Foundation.EventLog.NodeDeathTest` kills: writers that append
  to an event log, and say what was acknowledged.
  """

  alias Foundation.EventLog

  @writers 16

  @doc "Runs until it is killed. Each writer has a stream, and prints `STREAM VERSION` when it may."
  @spec main([charlist]) :: no_return
  def main([dir]) do
    {:ok, _apps} = Application.ensure_all_started(:foundation)
    options = [name: :killed, dir: to_string(dir), segment_bytes: 20_000]
    {:ok, _owner} = EventLog.start_link(options)
    for number <- 1..@writers, do: spawn_link(fn -> write("stream-#{number}") end)
    Process.sleep(:infinity)
  end

  # Appends of one, two and three events; their data says where they belong.
  defp write(stream) do
    version = EventLog.version(:killed, stream)
    count = rem(version, 3) + 1
    events = for index <- 1..count, do: {:written, {stream, version + index, index, count}}
    {:ok, last} = EventLog.append(:killed, stream, events, expected: version)
    IO.puts("#{stream} #{last}")
    write(stream)
  end
end
