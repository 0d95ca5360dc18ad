defmodule Foundation.OpenTelemetryTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  require Foundation.Telemetry.Span, as: Span

  alias Foundation.OpenTelemetry.{Open, Value}
  alias Foundation.Telemetry.Span.Handle

  # The stand-in in test/support.
  @moduletag skip:
               not (Code.ensure_loaded?(:otel_tracer) and
                      function_exported?(:otel_tracer, :with_span, 3))

  @trace "4bf92f3577b34da6a3ce929d0e0e4736"
  @span "00f067aa0ba902b7"

  doctest Foundation.OpenTelemetry

  setup do
    :ets.new(:otel_span_table, [:named_table, :public])
    Process.register(self(), :otel_exporter)
    :ok = Foundation.OpenTelemetry.setup()
    on_exit(fn -> :telemetry.detach(Foundation.OpenTelemetry) end)
    listen(for event <- [:start, :stop, :abandoned], do: [:foundation, :span, event])
  end

  defp exported(name) do
    assert_receive {:exported, %{name: ^name} = span}, 30_000
    span
  end

  defp event(kind, name) do
    assert_receive {[:foundation, :span, ^kind], measurements, %{name: ^name} = metadata}, 30_000
    {measurements, metadata}
  end

  defp number(hex), do: String.to_integer(hex, 16)

  for engine <- [:ets, :native] do
    describe "on the #{engine} engine," do
      @describetag engine: engine

      test "spans have the ids and times of their events, and nest" do
        Span.with_span :outer, %{a: 1} do
          Span.with_span [:jido, :cmd] do
            Span.add_attributes(%{late: 1})
            Span.record_event({:odd, 1}, %{n: 2})
          end
        end

        {outer, inner} = {exported(:outer), exported("jido.cmd")}
        {start, metadata} = event(:start, :outer)
        {stop, _metadata} = event(:stop, :outer)
        assert outer.trace_id == number(metadata.trace_id)
        assert outer.span_id == number(metadata.span_id)
        assert {outer.parent_id, outer.status, outer.scope} == {nil, nil, :foundation}
        assert {outer.start_time, outer.end_time} == {start.monotonic_time, stop.monotonic_time}
        assert outer.attributes == %{a: 1}
        assert {inner.trace_id, inner.parent_id} == {outer.trace_id, outer.span_id}
        assert inner.attributes == %{late: 1}
        assert [%{name: "{:odd, 1}", attributes: %{n: 2}} = event] = inner.events
        assert event.system_time_native in inner.start_time..inner.end_time
        assert :otel_ctx.get_current() == %{}
      end

      test "an exception is an event, and an error" do
        catch_error(Span.with_span(:raises, do: raise(ArgumentError, "no")))
        raises = exported(:raises)
        assert raises.status == {:error, "no"}
        assert [%{name: "exception", attributes: attributes} = event] = raises.events
        assert event.system_time_native == raises.end_time

        assert %{"exception.type" => "ArgumentError", "exception.message" => "no"} = attributes
        assert attributes["exception.stacktrace"] =~ "open_telemetry_test.exs"
        catch_throw(Span.with_span(:throws, do: throw({:a, 1})))
        assert exported(:throws).status == {:error, "{:a, 1}"}
      end

      test "a status is an error, an attribute or nothing" do
        statuses = [ok: nil, error: {:error, ""}, why: {:error, ":late"}, other: nil]
        given = %{ok: :ok, error: :error, why: {:error, :late}, other: :cancelled}

        for {name, status} <- statuses do
          name |> Span.start_span() |> Span.end_span(given[name])
          assert %{status: ^status, attributes: attributes} = exported(name)

          assert attributes ==
                   if(name == :other, do: %{"foundation.status" => :cancelled}, else: %{})
        end
      end

      test "spans that end out of order keep their parents, and leave no context" do
        [a, b, c] = Enum.map([:a, :b, :c], &Span.start_span/1)
        Span.end_span(a)
        Span.with_span(:d, do: :ok)
        Span.end_span(b)
        Span.end_span(c)
        [a, b, c, d] = Enum.map([:a, :b, :c, :d], &exported/1)
        assert [b.parent_id, c.parent_id, d.parent_id] == [a.span_id, b.span_id, c.span_id]
        assert :otel_ctx.get_current() == %{}
        Span.with_span(:root, do: :ok)
        assert exported(:root).parent_id == nil
      end

      test "an abandoned span ends as an error, at the death" do
        spawn(fn -> Span.start_span(:left) && Span.start_span(:inner) end)
        {left, inner} = {exported(:left), exported(:inner)}
        {start, _metadata} = event(:start, :left)
        {abandoned, _metadata} = event(:abandoned, :left)
        assert left.status == {:error, "abandoned"}

        assert {left.start_time, left.end_time} ==
                 {start.monotonic_time, abandoned.monotonic_time}

        assert inner.parent_id == left.span_id
        assert Open.take_dead() == []
      end

      test "a span that another process ends leaves no context" do
        handle = Handle.start(:handed, %{})
        Span.start_span(:on_top)
        Task.await(Task.async(fn -> Handle.stop(handle, %{tokens: 3}) end))
        assert exported(:handed).attributes == %{tokens: 3}
        assert Span.end_span() == :ok
        assert :otel_ctx.get_current() == %{}
      end

      test "a remote parent gives its trace, flags and tracestate" do
        {:ok, context} = Span.from_traceparent("00-#{@trace}-#{@span}-01")

        Span.with_propagated_context(Map.put(context, :tracestate, "v=1"), fn ->
          Span.with_span :remote do
            assert %{span: %{}} = :otel_ctx.get_current()
          end
        end)

        assert %{trace_id: trace, parent_id: parent} = exported(:remote)
        assert {trace, parent} == {number(@trace), number(@span)}
        {:ok, context} = Span.from_traceparent("00-#{@trace}-#{@span}-00")
        Span.with_propagated_context(context, fn -> Span.with_span(:unsampled, do: :ok) end)
        Span.with_span(:after, do: :ok)
        exported(:after)
        refute_received {:exported, %{name: :unsampled}}
        assert :otel_ctx.get_current() == %{}
      end

      test "spans nest with OpenTelemetry's own" do
        tracer = :opentelemetry.get_tracer(:other)

        :otel_tracer.with_span(tracer, "outer", fn outer ->
          Span.with_span :ours do
            context = Span.propagate_context()

            task = fn ->
              Span.with_propagated_context(context, fn -> Span.with_span(:task, do: :ok) end)
            end

            Task.await(Task.async(task))

            :otel_tracer.with_span(tracer, "inner", fn _span -> Span.with_span(:deep, do: :ok) end)
          end

          assert :otel_tracer.current_span_ctx(:otel_ctx.get_current()) == outer
        end)

        [outer, ours, task, inner, deep] =
          Enum.map(["outer", :ours, :task, "inner", :deep], &exported/1)

        assert ours.parent_id == outer.span_id
        assert {task.parent_id, inner.parent_id} == {ours.span_id, ours.span_id}
        assert deep.parent_id == inner.span_id
        traces = for span <- [ours, task, inner, deep], do: span.trace_id
        assert Enum.uniq(traces) == [outer.trace_id]
      end

      test "a span that was open before setup/1 is exported at its end, with its links" do
        :telemetry.detach(Foundation.OpenTelemetry)
        Span.start_span(:early)
        Foundation.OpenTelemetry.setup(tracer: :mine)
        Span.with_span(:inner, do: Span.link_span(%{trace_id: @trace, span_id: @span}))
        Span.link_span(%{trace_id: @trace, span_id: @span})
        Span.end_span()
        {early, inner} = {exported(:early), exported(:inner)}
        {start, _metadata} = event(:start, :early)
        assert {early.start_time, early.scope} == {start.monotonic_time, :mine}
        assert [{trace, span, [], []}] = early.links
        assert {trace, span} == {number(@trace), number(@span)}
        assert inner.parent_id == early.span_id
        assert [%{name: "link", attributes: %{trace_id: @trace, span_id: @span}}] = inner.events
      end

      test "a span that is too deep is not exported, and changes no context" do
        ids = for _ <- 1..10_001, do: Span.start_span(:deep)
        for id <- Enum.reverse(ids), do: Span.end_span(id)
        assert :otel_ctx.get_current() == %{}
        assert Open.take_dead() == []
      end
    end
  end

  test "every term is a name, a key or a value" do
    attributes = %{
      1 => nil,
      "a" => <<255>>,
      a: "é\n",
      b: [1, 2],
      c: [1, :a],
      d: [1 | 2],
      e: {1, self()},
      f: ["x", <<255>>],
      g: [nil],
      h: 1.5,
      i: true
    }

    assert %{
             "1" => "nil",
             "a" => "<<255>>",
             a: "é\\n",
             b: [1, 2],
             c: "[1, :a]",
             d: "[1 | 2]",
             e: "{1, #PID<" <> _,
             f: ["x", "<<255>>"],
             g: "[nil]",
             h: 1.5,
             i: true
           } = Value.attributes(attributes)

    for {name, expected} <- [a: :a, "": :"", nil: "nil"], do: assert(Value.name(name) == expected)
    assert Value.name("") == "\"\""
    assert Value.name([:jido, :agent]) == "jido.agent"
    assert Value.name(["a"]) == ~S(["a"])
    assert byte_size(Value.name(String.duplicate("x", 1_000_000))) < 100_000
  end

  test "an unknown option is refused" do
    assert_raise ArgumentError, ~r/tracer/, fn -> Foundation.OpenTelemetry.setup(trace: :a) end
  end
end
