defmodule Foundation.Jido.TracerTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Jido.Tracer
  alias Foundation.Telemetry.Span

  doctest Tracer

  @prefix [:jido, :agent, :cmd]
  @start [:foundation, :span, :start]
  @stop [:foundation, :span, :stop]
  @exception [:foundation, :span, :exception]
  @abandoned [:foundation, :span, :abandoned]

  setup do
    listen([@start, @stop, @exception, @abandoned])
  end

  for engine <- [:ets, :native] do
    describe "on the #{engine} engine," do
      @describetag engine: engine

      test "a span has Jido's prefix as name, and metadata and measurements as attributes" do
        span = Tracer.span_start(@prefix, %{agent_id: "1"})
        assert %{name: @prefix, attributes: %{agent_id: "1"}} = Span.current_span()
        assert Tracer.span_stop(span, %{duration: 5, tokens: 12}) == :ok
        assert_received {@start, _, %{name: @prefix, span_id: id, attributes: %{agent_id: "1"}}}

        assert_received {@stop, %{duration: _},
                         %{span_id: ^id, status: :ok, attributes: %{agent_id: "1", tokens: 12}}}

        assert Tracer.span_stop(span, %{}) == :ok
        refute_received {@stop, _, _}
        assert Span.current_span() == nil
      end

      test "a failure ends a span as an exception" do
        span = Tracer.span_start(@prefix, %{})
        assert Tracer.span_exception(span, :throw, :ball, [:trace]) == :ok

        assert_received {@exception, _,
                         %{name: @prefix, kind: :throw, reason: :ball, stacktrace: [:trace]}}
      end

      test "spans nest with those of the application" do
        Span.with_span_fun(:outer, %{}, fn ->
          outer = Span.current_span().span_id
          span = Tracer.span_start(@prefix, %{})
          assert Span.current_span().parent_id == outer
          inner = Span.start_span(:inner)
          assert_received {@start, _, %{name: :inner, parent_id: parent}}
          assert_received {@start, _, %{name: @prefix, span_id: ^parent}}
          Span.end_span(inner)
          Tracer.span_stop(span, %{})
          assert Span.current_span().span_id == outer
        end)
      end

      test "a scope returns the value, and passes a failure on" do
        assert Tracer.with_span_scope(@prefix, %{a: 1}, fn -> Span.current_span().name end) ==
                 @prefix

        assert_received {@stop, _, %{name: @prefix, attributes: %{a: 1}}}

        assert_raise RuntimeError, "no", fn ->
          Tracer.with_span_scope(@prefix, %{}, fn -> raise "no" end)
        end

        assert_received {@exception, _, %{reason: %RuntimeError{message: "no"}}}
        assert catch_throw(Tracer.with_span_scope(@prefix, %{}, fn -> throw(:ball) end)) == :ball
        assert Span.current_span() == nil
      end

      test "a task's spans belong to the caller's" do
        Tracer.with_span_scope([:outer], %{}, fn ->
          %{span_id: outer, trace_id: trace} = Span.current_span()

          task = fn ->
            # A task of a task, which has no span itself.
            Task.await(
              Task.async(fn ->
                Tracer.with_span_scope([:scope], %{}, fn -> :ok end)
                span = Tracer.span_start([:lifecycle], %{})
                Tracer.with_span_scope([:inner], %{}, fn -> :ok end)
                Tracer.span_stop(span, %{})
                Span.current_span()
              end)
            )
          end

          assert Task.await(Task.async(task)) == nil
          assert_received {@stop, _, %{name: [:scope], parent_id: ^outer, trace_id: ^trace}}

          assert_received {@stop, _,
                           %{name: [:lifecycle], parent_id: ^outer, trace_id: ^trace} = span}

          assert_received {@stop, _, %{name: [:inner], parent_id: parent, trace_id: ^trace}}
          assert parent == span.span_id
        end)
      end

      test "another process ends a span" do
        span = Tracer.span_start(@prefix, %{a: 1})
        inner = Span.start_span(:inner)
        assert Task.await(Task.async(fn -> Tracer.span_stop(span, %{b: 2}) end)) == :ok
        assert_received {@stop, _, %{name: @prefix, attributes: %{a: 1, b: 2}, status: :ok}}
        assert Tracer.span_stop(span, %{}) == :ok
        refute_received {@stop, _, _}
        assert Span.current_span().span_id == inner
        assert Span.end_span() == :ok
        assert Span.end_span() == {:error, :not_found}

        failing = Tracer.span_start(@prefix, %{})

        Task.await(
          Task.async(fn -> Tracer.span_exception(failing, :error, %RuntimeError{}, []) end)
        )

        assert_received {@exception, _, %{name: @prefix}}
        refute_received {@abandoned, _, _}
      end

      test "of two processes that end a span one does" do
        for _round <- 1..50 do
          span = Tracer.span_start(@prefix, %{})
          together(2, fn _n -> Tracer.span_stop(span, %{}) end)
          assert_received {@stop, _, _}
          refute_received {@stop, _, _}
        end
      end

      test "a span whose process died is abandoned, and is not ended again" do
        test = self()
        pid = spawn(fn -> send(test, {:span, Tracer.span_start(@prefix, %{})}) end)
        assert_receive {:span, span}
        assert_receive {@abandoned, _, %{name: @prefix}}
        eventually(fn -> not Process.alive?(pid) end)
        assert Tracer.span_stop(span, %{}) == :ok
        refute_received {@stop, _, _}
      end

      test "a span of another node's process, or none, is ignored" do
        span = %{Tracer.span_start(@prefix, %{}) | pid: Foundation.Case.foreign_pid()}
        assert Tracer.span_stop(span, %{}) == :ok
        refute_received {@stop, _, _}
        assert Span.end_span() == :ok
        assert Tracer.span_stop(nil, %{}) == :ok
        assert Tracer.span_exception(nil, :error, :no, []) == :ok
      end
    end
  end
end
