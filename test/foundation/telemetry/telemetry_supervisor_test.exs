defmodule Foundation.TelemetrySupervisorTest do
  # Not async: there is one telemetry tree.
  use Foundation.TelemetryCase, async: false

  alias Foundation.HealthCheck
  alias Foundation.Telemetry.{Sampler, SampledEvents, Span, Tables}

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
    test "calls succeed while the owner of the tables is killed, on the #{engine} engine" do
      killer = Task.async(fn -> for _ <- 1..5, do: {Process.sleep(20), kill_server(Tables)} end)

      together(4, fn i ->
        for n <- 1..2_000 do
          assert :ok = SampledEvents.emit_event([:suite, :gap], %{}, %{n: n})
          assert :ok = SampledEvents.emit_batched([:suite, :gap], %{n: n}, %{})
          id = Span.start_span({i, n})
          assert Span.end_span(id) in [:ok, {:error, :not_found}]
          assert Sampler.should_sample?([:suite, :gap])
        end
      end)

      Task.await(killer, 30_000)
    end

    @tag engine: engine
    test "after an orderly stop events are emitted directly, on the #{engine} engine" do
      listen([[:suite, :alone], [:batched, :suite, :alone]])
      stop_supervised!(Foundation.TelemetrySupervisor)
      assert Tables.exist?() == %{span_contexts: false, sampled_events_state: false}
      for _ <- 1..2, do: assert(:ok = SampledEvents.emit_event([:suite, :alone], %{n: 1}, %{}))
      assert length(received([:suite, :alone])) == 2
      assert :ok = SampledEvents.emit_batched([:suite, :alone], %{n: 1}, %{})
      assert_received {[:batched, :suite, :alone], %{count: 1}, _}
      assert Span.with_span_fun(:alone, %{}, fn -> :ran end) == :ran
      assert Sampler.should_sample?([:suite, :alone])

      assert_raise RuntimeError, ~r/start the :foundation application/, fn ->
        SampledEvents.stats()
      end
    end
  end

  for engine <- [:ets, :native] do
    @tag engine: engine
    test "health figures report the processes that are up, on the #{engine} engine" do
      SampledEvents.emit_event([:suite, :health], %{}, %{})
      figures = HealthCheck.check_telemetry()

      assert %{
               span_genserver: true,
               events_genserver: true,
               tables_owner: true,
               tables_exist: true,
               engine: unquote(engine),
               stats: %{offered: 1, emitted: 1}
             } = figures

      :ok = Supervisor.terminate_child(Foundation.TelemetrySupervisor, SampledEvents)
      assert %{span_genserver: true, events_genserver: false} = HealthCheck.check_telemetry()
      stop_supervised!(Foundation.TelemetrySupervisor)

      assert %{
               span_genserver: false,
               events_genserver: false,
               tables_owner: false,
               tables_exist: false,
               engine: nil,
               stats: nil
             } = HealthCheck.check_telemetry()
    end
  end

  # The VM deletes the tables of a killed owner one after the other, while calls go on.
  for table <- [:sampled_events_state, :sampled_events_order, :sampled_events_batches] do
    @tag engine: :ets
    @tag capture_log: true
    test "events are emitted directly and figures do not raise without #{table}" do
      listen([[:suite, :gone], [:batched, :suite, :gone]])
      true = :ets.delete(unquote(table))

      assert :ok = SampledEvents.emit_event([:suite, :gone], %{n: 1}, %{})
      assert :ok = SampledEvents.emit_batched([:suite, :gone], %{n: 1}, %{})
      assert %{engine: _, stats: _} = HealthCheck.check_telemetry()

      assert_received {[:suite, :gone], _, _}

      # Without the table of the windows' order, a batch still waits for its timer.
      if unquote(table) != :sampled_events_order, do: assert_received({[:batched | _], _, _})

      # Stopping the tree would fail without the table.
      kill_server(Tables)
      eventually(fn -> Process.whereis(SampledEvents) end)
    end
  end

  describe "the native tables" do
    @describetag engine: :native
    @describetag settings: [batch_timeout: 60_000]

    test "survive a kill of their owner with all windows, settings, batches and spans" do
      event = [:suite, :survivor]
      listen([event, [:batched | event], [:foundation, :span, :stop]])
      SampledEvents.configure_event(event, batch_size: 7)
      Sampler.configure_event([:suite, :other], :never)
      SampledEvents.emit_event(event, %{}, %{id: 1}, window: 60_000)
      SampledEvents.emit_batched(event, %{n: 1}, %{})
      id = Span.start_span(:survivor)

      kill_server(Tables)
      eventually(fn -> Process.whereis(SampledEvents) end)

      SampledEvents.emit_event(event, %{}, %{id: 1})
      # The batch processor was stopped in order meanwhile, and emitted the pending events.
      assert_received {[:batched | ^event], %{count: 1}, _}
      assert %{emitted: 2, suppressed: 1, pending: 0, offered: 3} = SampledEvents.stats(event)
      refute Sampler.should_sample?([:suite, :other])
      for n <- 1..7, do: SampledEvents.emit_batched(event, %{n: n}, %{})
      assert_receive {[:batched | ^event], %{count: 7}, _}
      assert :ok = Span.end_span(id)
      assert_received {[:foundation, :span, :stop], _, %{name: :survivor}}
    end

    test "lose nothing while their owner is killed under load" do
      killer = Task.async(fn -> for _ <- 1..5, do: {Process.sleep(20), kill_server(Tables)} end)

      together(8, fn i ->
        for n <- 1..2_000 do
          SampledEvents.emit_event([:suite, :load], %{}, %{n: n}, window: 60_000)
          SampledEvents.emit_batched([:suite, :batch], %{n: n}, %{process: i})
        end
      end)

      Task.await(killer, 30_000)
      eventually(fn -> Process.whereis(SampledEvents) end)
      SampledEvents.flush()
      assert %{offered: 16_000, emitted: 2_000, suppressed: 14_000} = stats([:suite, :load])
      assert %{offered: 16_000, emitted: 16_000, pending: 0} = stats([:suite, :batch])
    end

    test "are empty with fresh settings after an orderly stop and a start" do
      event = [:suite, :anew]
      Sampler.configure_event(event, :never)
      SampledEvents.configure_event(event, window: 0)
      SampledEvents.emit_event(event, %{}, %{})
      stop_supervised!(Foundation.TelemetrySupervisor)
      Application.put_env(:foundation, SampledEvents, window: 60_000)
      start_supervised!({Foundation.TelemetrySupervisor, engine: :native})
      assert SampledEvents.stats().offered == 0
      for _ <- 1..3, do: SampledEvents.emit_event(event, %{}, %{})
      assert %{emitted: 1, suppressed: 2} = SampledEvents.stats(event)
    end
  end

  defp stats(event), do: SampledEvents.stats(event)
end
