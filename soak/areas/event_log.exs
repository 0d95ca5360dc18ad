defmodule Soak.EventLog do
  @moduledoc false
  # An event log with writers and a subscriber. Its owner is killed. Every acknowledged append is there,
  # in order. The subscription delivers each event at least once and in order.

  @behaviour Soak.Area

  alias Foundation.EventLog
  alias Soak.{Faults, Record, Tree}

  @tree Soak.EventLog.Tree
  @log :soak_event_log
  @writers 4

  @impl true
  def name, do: "event log"

  @impl true
  def invariants,
    do: [
      append: "acknowledged appends lost, or versions with a gap",
      delivery: "events delivered out of order or left out"
    ]

  @impl true
  def open(options) do
    dir = Tree.choose_dir(__MODULE__, options)
    # For each writer the version of its last event that the subscriber has.
    :persistent_term.put(__MODULE__, :counters.new(@writers + 1, []))
    {:ok, _pid} = Tree.start_link(@tree, if(native?(), do: [log(dir)], else: []))
    :ok
  end

  # The log has no other engine.
  defp native?, do: Foundation.engine() == :native
  defp log(dir), do: {EventLog, name: @log, dir: dir, segment_bytes: 200_000}

  @impl true
  def close, do: Tree.close(@tree, __MODULE__)

  @impl true
  def crew do
    if native?() do
      [
        %{count: @writers, init: &start/1, step: &append/1},
        %{count: 1, init: &subscribe/1, step: &receive_events/1}
      ]
    else
      []
    end
  end

  @impl true
  def faults(:native), do: [{"event log's owner killed", 3, fn -> Faults.kill(@log) end}]
  def faults(:ets), do: []

  defp start(index), do: %{index: index, stream: "stream-#{index}", version: 0}

  # Only this member writes its stream. It trims what the subscriber has, so that the log stays small.
  defp append(%{index: index, stream: stream, version: version} = state) do
    answer = EventLog.append(@log, stream, [{:event, {index, version + 1}}], expected: version)
    Record.check!(:append, answer == {:ok, version + 1}, fn -> {stream, version, answer} end)

    if rem(version, 500) == 499 do
      delivered = :counters.get(:persistent_term.get(__MODULE__), index + 1)
      :ok = EventLog.trim(@log, stream, before: max(min(version, delivered) - 100, 1))
    end

    Process.sleep(1)
    {1, %{state | version: version + 1}}
  end

  defp subscribe(_index) do
    {:ok, subscription} = EventLog.subscribe(@log, :all, :soak, from: :end, max_in_flight: 1_000)
    %{subscription: subscription, versions: %{}}
  end

  defp receive_events(%{subscription: subscription} = state) do
    receive do
      {:events, ^subscription, events} ->
        :ok = EventLog.ack(subscription, List.last(events))
        {length(events), %{state | versions: Enum.reduce(events, state.versions, &follow/2)}}
    after
      5 -> {0, state}
    end
  end

  defp follow(%{stream: stream, version: version, data: {index, _version} = data}, versions) do
    last = Map.get(versions, stream, version - 1)
    right? = data == {index, version} and version in 1..(last + 1)//1
    Record.check!(:delivery, right?, fn -> {stream, version, data, :after, last} end)
    :counters.put(:persistent_term.get(__MODULE__), index + 1, max(version, last))
    Map.put(versions, stream, max(version, last))
  end

  @impl true
  def audit do
    if native?() do
      Faults.await(@log)
      verified = EventLog.verify(@log)
      Record.check!(:append, verified == :ok, fn -> verified end)

      for stream <- EventLog.streams(@log) do
        versions = for event <- EventLog.stream(@log, stream), do: event.version
        last = EventLog.version(@log, stream)
        first = List.first(versions) || last + 1
        right? = versions == Enum.to_list(first..last//1)
        Record.check!(:append, right?, fn -> {stream, first, last, length(versions)} end)
      end
    end
  end
end
