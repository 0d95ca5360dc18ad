defmodule Foundation.Telemetry.LegacyTest do
  # Not async: changes flags, and there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.FeatureFlags
  alias Foundation.Telemetry.{SampledEvents, Span}

  @event [:suite, :legacy]

  setup do
    on_exit(fn -> FeatureFlags.reset_all() end)
  end

  for engine <- [:ets, :native] do
    @tag engine: engine
    test "with the flag off windows are per process and counted, beside the #{engine} engine" do
      listen([@event])
      :ok = FeatureFlags.disable(:use_genserver_telemetry)
      for _ <- 1..2, do: SampledEvents.emit_event(@event, %{}, %{id: 1})
      assert Map.has_key?(Map.new(Process.get()), :event_cache)
      Task.await(Task.async(fn -> SampledEvents.emit_event(@event, %{}, %{id: 1}) end))
      assert length(received(@event)) == 2
      assert %{offered: 3, emitted: 2, suppressed: 1} = SampledEvents.stats(@event)

      :ok = FeatureFlags.enable(:use_genserver_telemetry)
      for _ <- 1..2, do: SampledEvents.emit_event(@event, %{}, %{id: 2})
      assert length(received(@event)) == 1
      Process.delete(:event_cache)
    end

    @tag engine: engine
    test "with the flag off spans are in the process dictionary, beside the #{engine} engine" do
      listen([[:foundation, :span, :stop], [:foundation, :span, :abandoned]])
      :ok = FeatureFlags.disable(:use_genserver_telemetry)
      id = Span.start_span(:old, %{n: 1})
      assert [_span] = Process.get(:span_stack)
      assert %{span_id: ^id} = Span.current_span()
      assert :ok = Span.add_attributes(%{m: 2})
      context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}

      Span.with_propagated_context(context, fn ->
        assert Span.current_trace_id() == context.trace_id
        Span.start_span(:left)
      end)

      assert_received {[:foundation, :span, :abandoned], _, %{name: :left}}
      assert :ok = Span.end_span(id)
      assert_received {[:foundation, :span, :stop], _, %{name: :old, attributes: %{n: 1, m: 2}}}
      assert {:error, :not_found} = Span.end_span(id)
      assert Process.get(:span_stack) == nil
    end

    @tag engine: engine
    test "a flag change during an open span loses no span, beside the #{engine} engine" do
      for first <- [true, false], ending <- [:by_id, :innermost] do
        :ok = FeatureFlags.set(:use_genserver_telemetry, first)
        listen([[:foundation, :span, :stop], [:foundation, :span, :abandoned]])
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}

        Span.with_propagated_context(context, fn ->
          id = Span.start_span(:across, %{n: 1})
          :ok = FeatureFlags.set(:use_genserver_telemetry, not first)
          assert %{span_id: ^id, name: :across} = Span.current_span()
          assert Span.add_attributes(%{m: 2}) == :ok
          assert Span.record_event(:changed) == :ok
          inner = Span.start_span(:inner)
          assert %{span_id: ^inner} = Span.current_span()
          assert Span.end_span(inner) == :ok
          assert %{span_id: ^id} = Span.current_span()
          assert if(ending == :by_id, do: Span.end_span(id), else: Span.end_span()) == :ok
          assert Span.end_span(id) == {:error, :not_found}
          Span.start_span(:left)
          :ok = FeatureFlags.set(:use_genserver_telemetry, first)
        end)

        assert Span.current_span() == nil
        assert_received {[:foundation, :span, :stop], _, %{name: :across} = across}
        assert %{attributes: %{n: 1, m: 2}, events: [%{name: :changed}]} = across
        assert across.trace_id == context.trace_id
        # Spans that were opened in one backend stay there until the last of them ends.
        assert :span_stack not in Process.get_keys()
      end
    end

    @tag engine: engine
    test "legacy calls raise without a process dictionary, beside the #{engine} engine" do
      :ok = FeatureFlags.disable(:use_genserver_telemetry)
      :ok = FeatureFlags.enable(:enforce_no_process_dict)

      assert_raise RuntimeError, ~r/expected no use of the process dictionary/, fn ->
        SampledEvents.emit_event(@event, %{}, %{})
      end

      assert_raise RuntimeError, ~r/expected no use of the process dictionary/, fn ->
        Span.start_span(:refused)
      end

      assert Process.get(:event_cache) == nil
    end
  end
end
