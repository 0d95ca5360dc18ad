defmodule TelemetryTest do
  # The functions of telemetry that Foundation uses, and the guarantees that its documentation
  # gives. The tests pass on the package, and on the stand-in for builds without Hex. Not async: one
  # test changes the level of Logger.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  defmodule Reports do
    def log(event, %{config: test}), do: send(test, {:report, event})
  end

  # Handlers are global, so each test has event names of its own.
  setup context do
    %{id: {__MODULE__, context.test}, event: [:telemetry_test, context.test]}
  end

  def send_event(event, measurements, metadata, pid) do
    send(pid, {event, measurements, metadata})
  end

  def fail(_event, _measurements, _metadata, _config), do: raise("on purpose")

  defp attach(id, events, function \\ &__MODULE__.send_event/4) do
    on_exit(fn -> :telemetry.detach(id) end)
    :telemetry.attach_many(id, events, function, self())
  end

  test "a handler is called in the process that executes the event", %{id: id, event: event} do
    assert attach(id, [event]) == :ok
    assert :telemetry.execute(event, %{count: 1}, %{a: 1}) == :ok
    assert_received {^event, %{count: 1}, %{a: 1}}
  end

  test "metadata defaults to an empty map, and a number becomes the measurement :value", %{
    id: id,
    event: event
  } do
    attach(id, [event])
    :telemetry.execute(event, %{count: 1})
    assert_received {^event, %{count: 1}, metadata} when metadata == %{}

    :telemetry.execute(event, 5)
    assert_received {^event, %{value: 5}, _metadata}
  end

  test "telemetry_test sends each event to a process, until it is detached", %{event: event} do
    ref = :telemetry_test.attach_event_handlers(self(), [event, event ++ [:other]])
    :telemetry.execute(event, %{a: 1}, %{b: 2})
    assert_received {^event, ^ref, %{a: 1}, %{b: 2}}
    assert :telemetry.detach(ref) == :ok
    :telemetry.execute(event, %{a: 1}, %{b: 2})
    refute_received {^event, ^ref, _measurements, _metadata}
  end

  test "a local function as a handler is reported with a log entry", %{id: id, event: event} do
    handler = :telemetry_report_test
    %{level: level} = :logger.get_primary_config()
    :ok = :logger.add_handler(handler, __MODULE__.Reports, %{config: self()})
    :ok = :logger.set_module_level(:telemetry, :info)
    :ok = :logger.set_primary_config(:level, :info)

    on_exit(fn ->
      :logger.set_primary_config(:level, level)
      :logger.unset_module_level(:telemetry)
      :logger.remove_handler(handler)
    end)

    function = fn _event, _measurements, _metadata, _config -> :ok end
    capture_log(fn -> attach(id, [event], function) end)
    assert_receive {:report, %{msg: {:report, %{handler_id: ^id} = report}, meta: meta}}
    assert %{event_names: [^event], function: ^function, config: _, type: :local} = report
    assert {format, [^id]} = meta.report_cb.(report)
    assert is_list(format) or is_binary(format)
  end

  test "an event without handlers returns :ok", %{event: event} do
    assert :telemetry.execute(event, %{}) == :ok
  end

  test "an id can be attached once, and again after it was detached", %{id: id, event: event} do
    assert attach(id, [event]) == :ok

    assert :telemetry.attach(id, event, &__MODULE__.send_event/4, self()) ==
             {:error, :already_exists}

    assert :telemetry.detach(id) == :ok
    assert :telemetry.detach(id) == {:error, :not_found}

    :telemetry.execute(event, %{})
    refute_received {^event, _measurements, _metadata}
    assert :telemetry.attach(id, event, &__MODULE__.send_event/4, self()) == :ok
  end

  test "a handler may have many events, and an event many handlers", %{id: id, event: event} do
    other = event ++ [:other]
    attach(id, [event, other])
    attach({id, 2}, [event])

    :telemetry.execute(event, %{})
    assert_received {^event, _, _}
    assert_received {^event, _, _}

    :telemetry.detach({id, 2})
    :telemetry.execute(other, %{})
    :telemetry.execute(event, %{})
    assert_received {^other, _, _}
    assert_received {^event, _, _}
    refute_received {^event, _, _}
  end

  test "a name that is not a list of atoms is refused", %{id: id} do
    for name <- [[], :event, ["event"]] do
      assert_raise ArgumentError, fn ->
        :telemetry.attach(id, name, &__MODULE__.send_event/4, nil)
      end
    end
  end

  test "handlers are listed by an event prefix", %{id: id, event: event} do
    attach(id, [event ++ [:a], event ++ [:b]])
    function = &__MODULE__.send_event/4

    assert event |> :telemetry.list_handlers() |> Enum.sort() == [
             %{id: id, event_name: event ++ [:a], function: function, config: self()},
             %{id: id, event_name: event ++ [:b], function: function, config: self()}
           ]

    assert [%{event_name: _}] = :telemetry.list_handlers(event ++ [:a])
    assert :telemetry.list_handlers(event ++ [:c]) == []
    assert id in Enum.map(:telemetry.list_handlers([]), & &1.id)
  end

  test "a handler that fails is detached, and the others are called", %{id: id, event: event} do
    attach({id, :fails}, [event], &__MODULE__.fail/4)
    attach(id, [event])
    attach({id, :failures}, [[:telemetry, :handler, :failure]])

    log = capture_log(fn -> assert :telemetry.execute(event, %{}) == :ok end)

    assert log =~ "on purpose"
    assert_received {^event, _, _}
    assert Enum.map(:telemetry.list_handlers(event), & &1.id) == [id]

    assert_received {[:telemetry, :handler, :failure], %{system_time: _, monotonic_time: _},
                     %{event_name: ^event, handler_id: {^id, :fails}, kind: :error} = metadata}

    assert %RuntimeError{message: "on purpose"} = metadata.reason
    assert [_ | _] = metadata.stacktrace
  end

  describe "span/3" do
    setup %{id: id, event: event} do
      attach(id, [event ++ [:start], event ++ [:stop], event ++ [:exception]])
    end

    test "emits a start and a stop event", %{event: event} do
      assert :telemetry.span(event, %{a: 1}, fn -> {:result, %{b: 2}} end) == :result

      [start, stop] = [event ++ [:start], event ++ [:stop]]
      assert_received {^start, %{system_time: _, monotonic_time: began}, metadata}
      assert %{a: 1, telemetry_span_context: context} = metadata
      assert_received {^stop, %{duration: duration, monotonic_time: ended}, metadata}
      assert metadata == %{b: 2, telemetry_span_context: context}
      assert ended - began == duration
    end

    test "takes extra measurements for the stop event", %{event: event} do
      assert :telemetry.span(event, %{}, fn -> {1, %{bytes: 3}, %{}} end) == 1

      stop = event ++ [:stop]
      assert_received {^stop, %{duration: _, bytes: 3}, _metadata}
    end

    test "keeps a span context that is given", %{event: event} do
      :telemetry.span(event, %{telemetry_span_context: 1}, fn -> {1, %{}} end)

      start = event ++ [:start]
      assert_received {^start, _, %{telemetry_span_context: 1}}
    end

    test "emits an exception event for a raise, throw or exit, and passes it on", %{event: event} do
      for {kind, fun} <- [
            error: fn -> :erlang.error(:reason) end,
            throw: fn -> throw(:reason) end,
            exit: fn -> exit(:reason) end
          ] do
        caught =
          try do
            :telemetry.span(event, %{a: 1}, fun)
          catch
            kind, reason -> {kind, reason}
          end

        assert caught == {kind, :reason}

        exception = event ++ [:exception]

        assert_received {^exception, %{duration: _},
                         %{kind: ^kind, reason: :reason, a: 1} = metadata}

        assert [_ | _] = metadata.stacktrace
      end
    end
  end

  test "persist/0 keeps the handlers, and later ones are attached and detached" do
    # In a VM of its own, because the change cannot be undone.
    peer = Foundation.Peer.start_alone()
    call = fn function, arguments -> :peer.call(peer, :telemetry, function, arguments) end
    {:ok, _apps} = :peer.call(peer, :application, :ensure_all_started, [:telemetry])
    handler = Function.capture(:telemetry_test, :handle_event, 4)
    config = {:peer.call(peer, :erlang, :whereis, [:init]), make_ref()}

    assert call.(:attach, [:before, [:a], handler, config]) == :ok
    assert call.(:persist, []) == :ok
    assert call.(:persist, []) == :ok
    assert call.(:attach, [:before, [:a], handler, config]) == {:error, :already_exists}
    assert call.(:attach, [:later, [:a], handler, config]) == :ok
    assert for(%{id: id} <- call.(:list_handlers, [[]]), do: id) == [:before, :later]
    assert call.(:detach, [:before]) == :ok
    assert call.(:detach, [:before]) == {:error, :not_found}
    assert call.(:execute, [[:a], %{}, %{}]) == :ok
    assert for(%{id: id} <- call.(:list_handlers, [[:a]]), do: id) == [:later]
    assert call.(:detach, [:later]) == :ok
    assert call.(:list_handlers, [[]]) == []
  end
end
