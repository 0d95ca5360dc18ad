defmodule Foundation.EventLogSubscriptionsFaultTest do
  # Not async: the supervisor of subscriptions is the application's.
  use Foundation.Case, async: false

  alias Foundation.EventLog

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    %{log: log}
  end

  defp append(log, numbers) do
    {:ok, _version} = EventLog.append(log, "s", for(n <- numbers, do: {:n, n}))
  end

  test "subscriptions resume when the supervisor of all subscriptions is killed", %{log: log} do
    append(log, 1..3)
    {:ok, subscription} = EventLog.subscribe(log, :all, :name)
    {:ok, other} = EventLog.subscribe(log, "s", :other, from: :end)
    worker = start_worker()
    {:ok, _subscription} = run(worker, fn -> EventLog.subscribe(log, :all, "of another") end)
    await_all(subscription, 1..3)
    [first | _rest] = EventLog.read(log, :all)
    :ok = EventLog.ack(subscription, first)
    key = EventLog.Subscription.key("of another")
    server = Foundation.Native.event_log_server(log, key)
    kill(worker)
    eventually(fn -> not Process.alive?(server) end)

    for number <- 4..6 do
      kill(Process.whereis(EventLog.Subscriptions))
      append(log, [number])
      await_all(subscription, 2..number)
      await_all(other, 4..number)
    end

    # Only the subscriptions of living subscribers have been resumed.
    assert Foundation.Native.event_log_server(log, key) in [:none, server]
    for subscription <- [subscription, other], do: EventLog.unsubscribe(subscription)
    assert Enum.all?(mailbox(), &match?({:events, _subscription, _events}, &1))
  end

  # Receives until all of these events have come. Some come more than once.
  defp await_all(subscription, expected, seen \\ []) do
    unless Enum.to_list(expected) -- seen == [] do
      assert_receive {:events, ^subscription, events}, 60_000
      await_all(subscription, expected, seen ++ Enum.map(events, & &1.data))
    end
  end

  test "unsubscribe/1 ends a subscription whose server is killed", %{log: log} do
    for number <- 1..20 do
      {:ok, subscription} = EventLog.subscribe(log, :all, "name #{number}")
      key = EventLog.Subscription.key("name #{number}")
      kill(Foundation.Native.event_log_server(log, key))
      assert EventLog.unsubscribe(subscription) == :ok
      assert Foundation.Native.event_log_server(log, key) == :none
    end
  end

  defp mailbox do
    receive do
      message -> [message | mailbox()]
    after
      0 -> []
    end
  end

  test "subscribe/4 waits while the supervisor of all subscriptions restarts", %{
    log: log
  } do
    for number <- 1..20 do
      kill(Process.whereis(EventLog.Subscriptions))
      assert {:ok, subscription} = EventLog.subscribe(log, :all, "name #{number}")
      assert EventLog.unsubscribe(subscription) == :ok
    end
  end
end
