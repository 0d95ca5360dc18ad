defmodule Foundation.TelemetrySupervisorTest do
  # Not async: there is one telemetry tree.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Telemetry.{SampledEvents, Span, Tables}

  test "a kill of the batch processor leaves the span process running" do
    span = Process.whereis(Span)
    kill_server(SampledEvents)
    assert Process.whereis(Span) == span
  end

  test "a kill of the span process restarts the batch processor, and not the tables" do
    {tables, events} = {Process.whereis(Tables), Process.whereis(SampledEvents)}
    kill_server(Span)
    eventually(fn -> Process.whereis(SampledEvents) not in [nil, events] end)
    assert Process.whereis(Tables) == tables
  end

  test "a kill of the tables' owner restarts both" do
    {span, events} = {Process.whereis(Span), Process.whereis(SampledEvents)}
    kill_server(Tables)
    eventually(fn -> Process.whereis(SampledEvents) not in [nil, events] end)
    assert Process.whereis(Span) not in [nil, span]
    assert Tables.exist?() == %{span_contexts: true, sampled_events_state: true}
  end

  for engine <- [:ets, :native] do
    @tag engine: engine
    @tag capture_log: true
    test "callers go on while the owner of the tables is killed, on the #{engine} engine" do
      killer = Task.async(fn -> for _ <- 1..5, do: {Process.sleep(20), kill_server(Tables)} end)

      together(4, fn i ->
        for n <- 1..2_000 do
          assert :ok = SampledEvents.emit_event([:suite, :gap], %{}, %{n: n})
          assert :ok = SampledEvents.emit_batched([:suite, :gap], %{n: n}, %{})
          id = Span.start_span({i, n})
          assert Span.end_span(id) in [:ok, {:error, :not_found}]
        end
      end)

      Task.await(killer, 30_000)
    end

    @tag engine: engine
    test "an orderly stop destroys the tables, and events go straight on, on the #{engine} engine" do
      listen([[:suite, :alone], [:batched, :suite, :alone]])
      stop_supervised!(Foundation.TelemetrySupervisor)
      assert Tables.exist?() == %{span_contexts: false, sampled_events_state: false}
      for _ <- 1..2, do: assert(:ok = SampledEvents.emit_event([:suite, :alone], %{n: 1}, %{}))
      assert length(received([:suite, :alone])) == 2
      assert :ok = SampledEvents.emit_batched([:suite, :alone], %{n: 1}, %{})
      assert_received {[:batched, :suite, :alone], %{count: 1}, _}
      assert Span.with_span_fun(:alone, %{}, fn -> :ran end) == :ran

      assert_raise RuntimeError, ~r/start the :foundation application/, fn ->
        SampledEvents.stats()
      end
    end
  end
end
