defmodule Foundation.EventLog.SubscriptionTest do
  use Foundation.Case, async: true

  alias Foundation.EventLog

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    %{log: log}
  end

  defp append(log, numbers, stream \\ "s") do
    {:ok, _version} = EventLog.append(log, stream, for(n <- numbers, do: {:n, n}))
  end

  # Receives until `count` events are there.
  defp take(_subscription, 0), do: []

  defp take(subscription, count) do
    assert_receive {:events, ^subscription, events}, 60_000
    assert length(events) <= count
    events ++ take(subscription, count - length(events))
  end

  defp data(events), do: Enum.map(events, & &1.data)

  test "subscription: catches up and then follows live without a gap", %{log: log} do
    append(log, 1..250)
    {:ok, subscription} = EventLog.subscribe(log, :all, :all, max_in_flight: 10_000)
    writer = Task.async(fn -> for n <- 251..600, do: append(log, [n]) end)
    assert subscription |> take(600) |> data() == Enum.to_list(1..600)
    Task.await(writer, 30_000)
    refute_receive {:events, _subscription, _events}, 20
  end

  test "subscription: starts at the position given in :from", %{log: log} do
    append(log, 1..3)
    append(log, [4], "other")
    {:ok, third} = EventLog.subscribe(log, "s", "third", from: 3)
    {:ok, fourth} = EventLog.subscribe(log, :all, "fourth", from: 4)
    {:ok, last} = EventLog.subscribe(log, :all, :end, from: :end)
    append(log, [5])
    assert third |> take(2) |> data() == [3, 5]
    assert fourth |> take(2) |> data() == [4, 5]
    assert last |> take(1) |> data() == [5]
  end

  test "subscription: sends no more than max_in_flight ahead of the acknowledgements", %{log: log} do
    append(log, 1..10)
    {:ok, subscription} = EventLog.subscribe(log, "s", :slow, max_in_flight: 3)
    [_first, second, third] = take(subscription, 3)
    refute_receive {:events, _subscription, _events}, 20
    :ok = EventLog.ack(subscription, second)
    assert subscription |> take(2) |> data() == [4, 5]
    refute_receive {:events, _subscription, _events}, 20
    :ok = EventLog.ack(subscription, third)
    assert subscription |> take(1) |> data() == [6]
  end

  test "subscription: a name has one subscriber in a log at a time", %{log: log} do
    worker = start_worker()
    {:ok, _subscription} = run(worker, fn -> EventLog.subscribe(log, :all, :name) end)
    assert EventLog.subscribe(log, :all, :name) == {:error, {:already_subscribed, worker}}
    assert {:ok, other} = EventLog.subscribe(log, :all, "name")
    kill(worker)
    assert {:ok, _subscription} = EventLog.subscribe(log, :all, :name)

    :ok = EventLog.unsubscribe(other)

    assert_raise ArgumentError, ~r/to follow the stream/, fn ->
      EventLog.subscribe(log, "s", "name")
    end
  end

  test "subscription: resumes after the last acknowledged event of a subscriber that was killed",
       %{log: log} do
    append(log, 1..5)
    worker = start_worker()

    run(worker, fn ->
      {:ok, subscription} = EventLog.subscribe(log, :all, :name)
      assert_receive {:events, ^subscription, [_first, second | _rest]}
      :ok = EventLog.ack(subscription, second)
    end)

    kill(worker)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name, from: :end)
    assert subscription |> take(3) |> data() == [3, 4, 5]
  end

  test "subscription: resumes after a stop and a start of the log", %{log: log, tmp_dir: dir} do
    append(log, 1..5)
    {:ok, subscription} = EventLog.subscribe(log, "s", :name)
    [_first, second | _rest] = take(subscription, 5)
    :ok = EventLog.ack(subscription, second)
    :ok = stop_supervised(log)
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    {:ok, subscription} = EventLog.subscribe(log, "s", :name)
    assert subscription |> take(3) |> data() == [3, 4, 5]
  end

  test "subscription: an acknowledgement becomes durable without a stop of the log", %{
    log: log,
    tmp_dir: dir
  } do
    append(log, 1..5)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    [_first, second | _rest] = take(subscription, 5)
    before = EventLog.info(log).bytes
    :ok = EventLog.ack(subscription, second)
    eventually(fn -> EventLog.info(log).bytes > before end)

    # As a crash at this moment would leave the files.
    crashed = unique_name("log")
    copy = "#{dir}_crashed"
    File.cp_r!(dir, copy)
    on_exit(fn -> File.rm_rf!(copy) end)
    start_supervised!({EventLog, name: crashed, dir: copy}, id: crashed)
    {:ok, resumed} = EventLog.subscribe(crashed, :all, :name)
    assert resumed |> take(3) |> data() == [3, 4, 5]
  end

  test "subscription: outlives the log's owner, and its own process", %{log: log} do
    append(log, [1])
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    [first] = take(subscription, 1)
    :ok = EventLog.ack(subscription, first)
    kill(Process.whereis(log))
    append(log, [2])
    assert subscription |> take(1) |> data() == [2]

    key = EventLog.Subscription.key(:name)
    kill(Foundation.Native.event_log_server(log, key))
    append(log, [3])
    # At least once: what was not acknowledged comes again.
    assert subscription |> take(2) |> data() == [2, 3]
    # The subscriber gets events, and nothing else.
    refute_received _message
  end

  test "subscription: goes on when the log is opened again after a failure", %{log: log} do
    append(log, 1..3)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    [first | _rest] = take(subscription, 3)
    :ok = EventLog.ack(subscription, first)
    # As the log tells it when its commit thread has ended.
    key = EventLog.Subscription.key(:name)
    send(Foundation.Native.event_log_server(log, key), {:foundation_event_log, :ended})
    assert subscription |> take(2) |> data() == [2, 3]
    append(log, [4])
    assert subscription |> take(1) |> data() == [4]
  end

  test "subscription: unsubscribe/1 keeps the position, delete_subscription/2 forgets it", %{
    log: log
  } do
    append(log, 1..3)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    [first | _rest] = take(subscription, 3)
    :ok = EventLog.ack(subscription, first)
    assert EventLog.unsubscribe(subscription) == :ok
    assert EventLog.unsubscribe(subscription) == :ok
    append(log, [4])
    refute_receive {:events, _subscription, _events}, 20

    {:ok, again} = EventLog.subscribe(log, :all, :name)
    assert again |> take(3) |> data() == [2, 3, 4]
    assert EventLog.delete_subscription(log, :name) == :ok
    append(log, [5])
    refute_receive {:events, _subscription, _events}, 20
    {:ok, anew} = EventLog.subscribe(log, :all, :name)
    assert anew |> take(5) |> data() == [1, 2, 3, 4, 5]
    # One of another call ends nothing.
    assert EventLog.unsubscribe(again) == :ok
    append(log, [6])
    assert anew |> take(1) |> data() == [6]
  end

  test "subscription: leaves removed events out", %{log: log} do
    append(log, 1..5)
    append(log, [6], "other")
    append(log, [7])
    :ok = EventLog.delete_stream(log, "other")
    :ok = EventLog.trim(log, "s", before: 3)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    assert subscription |> take(4) |> data() == [3, 4, 5, 7]
    {:ok, other} = EventLog.subscribe(log, "other", :other)
    append(log, [8], "other")
    assert other |> take(1) |> data() == [8]
    assert subscription |> take(1) |> data() == [8]
  end

  test "subscription: refuses an acknowledgement of an event of another stream", %{log: log} do
    append(log, [1])
    append(log, [2], "other")
    {:ok, subscription} = EventLog.subscribe(log, "s", :name)
    [other] = EventLog.read(log, "other")
    assert_raise ArgumentError, fn -> EventLog.ack(subscription, other) end
  end
end
