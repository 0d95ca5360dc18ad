defmodule Foundation.Telemetry.SpanTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  require Foundation.Telemetry.Span, as: Span

  doctest Span

  @start [:foundation, :span, :start]
  @stop [:foundation, :span, :stop]
  @exception [:foundation, :span, :exception]
  @abandoned [:foundation, :span, :abandoned]

  setup do
    listen([@start, @stop, @exception, @abandoned])
  end

  for engine <- [:ets, :native] do
    describe "spans on the #{engine} engine:" do
      @describetag engine: engine

      test "a span has ids, and events at its start and end" do
        before = System.system_time()
        id = Span.start_span(:work, %{n: 1})
        assert id =~ ~r/\A[0-9a-f]{16}\z/
        assert_received {@start, %{system_time: time}, metadata}
        assert time in before..System.system_time()

        assert %{
                 name: :work,
                 span_id: ^id,
                 parent_id: nil,
                 attributes: %{n: 1},
                 events: [],
                 links: []
               } = metadata

        assert metadata.trace_id =~ ~r/\A[0-9a-f]{32}\z/

        assert :ok = Span.end_span(id)
        assert_received {@stop, %{duration: duration}, stopped}

        assert is_integer(duration) and duration >= 0 and
                 duration <= System.system_time() - before

        assert stopped == %{metadata | status: :ok}
      end

      test "a start has Erlang's system time, and a duration has native units" do
        for _span <- 1..2_000 do
          asked = {System.system_time(), System.monotonic_time()}
          id = Span.start_span(:work)
          started = {System.system_time(), System.monotonic_time()}
          # A pause now and then, so that the library compares the clocks again.
          if rem(elem(asked, 0), 7) == 0, do: Process.sleep(1)
          ending = System.monotonic_time()
          Span.end_span(id)
          ended = System.monotonic_time()
          assert_received {@start, %{system_time: time}, _}
          # The library measures the difference between the two clocks every 100 µs.
          assert time in (elem(asked, 0) - 1_000)..(elem(started, 0) + 1_000)
          assert_received {@stop, %{duration: duration}, _}
          # The clocks of processors, and their corrections, differ by parts of a microsecond.
          assert duration >= ending - elem(started, 1) - 1_000
          assert duration <= ended - elem(asked, 1) + 1_000
        end
      end

      test "the monotonic times of a span's events are as far apart as its duration" do
        before = System.monotonic_time()
        id = Span.start_span(:work)
        started = System.monotonic_time()
        assert_received {@start, %{monotonic_time: start, system_time: system}, _}
        assert start in before..started
        # Both name one instant.
        assert system - start == System.time_offset()

        Span.end_span(id)
        assert_received {@stop, %{monotonic_time: stop, duration: duration}, _}
        assert stop - start == duration

        catch_throw(Span.with_span(:fails, %{}, do: throw(:no)))
        assert_received {@start, %{monotonic_time: start}, _}
        assert_received {@exception, %{monotonic_time: stop, duration: duration}, _}
        assert stop - start == duration

        ended =
          Task.await(Task.async(fn -> Span.start_span(:doomed) && System.monotonic_time() end))

        assert_receive {@start, %{monotonic_time: start}, %{name: :doomed}}
        assert_receive {@abandoned, %{monotonic_time: stop, duration: duration}, _}
        assert stop - start == duration
        # Clocks of processors, and their corrections, differ by parts of a microsecond.
        assert stop >= ended - 1_000
      end

      test "a span's events have its trace's flags, and its id as their context" do
        {:ok, remote} =
          Span.from_traceparent("00-#{String.duplicate("a", 32)}-#{String.duplicate("b", 16)}-00")

        flags = fn -> assert_received({_, _, metadata}) && metadata.trace_flags end

        Span.with_span(:root, %{}, do: :ok)
        assert {flags.(), flags.()} == {1, 1}

        Span.with_propagated_context(remote, fn -> Span.with_span(:sampled_out, %{}, do: :ok) end)
        assert {flags.(), flags.()} == {0, 0}

        id = Span.start_span(:work)
        Span.end_span(id)
        assert_received {@start, _, %{telemetry_span_context: ^id}}
        assert_received {@stop, _, %{telemetry_span_context: ^id}}
      end

      test "an unknown span id ends no span" do
        id = Span.start_span(:work)

        for other <- [
              "",
              "0",
              String.duplicate("0", 16) <> id,
              String.upcase(id <> "a"),
              <<0::128>>
            ] do
          assert {:error, :not_found} = Span.end_span(other)
        end

        assert :ok = Span.end_span(id)
      end

      test "names and attributes of any type and size are returned unchanged" do
        attributes = fn n, value -> Map.new(1..n//1, &{:"key#{&1}", value}) end

        for name <- [
              :a,
              1,
              -1,
              nil,
              [],
              "a",
              {:a, 1},
              1.5,
              %{},
              %{a: 1},
              %{a: "b"},
              Integer.pow(2, 70)
            ],
            size <- [0, 1, 2, 3, 5, 32, 33, 100],
            value <- [
              :a,
              0,
              -1,
              nil,
              [],
              self(),
              "a",
              %{},
              %{a: 1},
              Integer.pow(2, 70),
              make_ref()
            ] do
          attributes = attributes.(size, value)
          id = Span.start_span(name, attributes)
          assert %{name: ^name, attributes: ^attributes} = Span.current_span()
          assert :ok = Span.end_span(id)
          assert_received {@start, _, %{name: ^name, attributes: ^attributes}}
          assert_received {@stop, _, %{name: ^name, attributes: ^attributes}}
        end
      end

      test "spans nest: the innermost is the parent of the next" do
        outer = Span.start_span("outer")
        trace = Span.current_trace_id()
        inner = Span.start_span({:inner, 1}, %{a: 1})

        assert %{
                 span_id: ^inner,
                 parent_id: ^outer,
                 trace_id: ^trace,
                 name: {:inner, 1},
                 attributes: %{a: 1}
               } = Span.current_span()

        assert :ok = Span.end_span()
        assert %{span_id: ^outer, parent_id: nil} = Span.current_span()
        assert :ok = Span.end_span()
        assert Span.current_span() == nil
        assert Span.current_trace_id() == nil
        assert Span.to_traceparent() == nil
        assert Span.propagate_context() == nil
        assert {:error, :not_found} = Span.end_span()

        Span.start_span(:next)
        assert Span.current_trace_id() != trace
        Span.end_span()
      end

      test "an outer span can end before an inner one" do
        outer = Span.start_span(:outer)
        inner = Span.start_span(:inner)
        assert :ok = Span.end_span(outer, {:error, :early})
        assert_received {@stop, _, %{span_id: ^outer, status: {:error, :early}}}
        assert %{span_id: ^inner, parent_id: ^outer} = Span.current_span()
        assert :ok = Span.end_span(inner)
        assert {:error, :not_found} = Span.end_span(outer)
        assert {:error, :not_found} = Span.end_span("no id")
        assert {:error, :not_found} = Span.end_span(nil, :ok)
      end

      test "a span belongs to the process that started it" do
        id = Span.start_span(:mine)

        assert Task.await(Task.async(fn -> {Span.current_span(), Span.end_span(id)} end)) ==
                 {nil, {:error, :not_found}}

        assert :ok = Span.end_span(id)
      end

      test "attributes, events and links go to the innermost span in order" do
        assert {:error, :not_found} = Span.add_attributes(%{a: 1})
        assert {:error, :not_found} = Span.record_event(:e, %{})
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}
        assert {:error, :not_found} = Span.link_span(context)

        Span.with_span :outer, %{a: 1, b: 1} do
          Span.with_span(:inner, %{}, do: :ok)
          assert :ok = Span.add_attributes(%{b: 2, c: 3})
          assert :ok = Span.record_event(:first, %{n: 1})
          assert :ok = Span.record_event(:second)
          assert :ok = Span.link_span(Map.put(context, :more, 1))

          assert %{attributes: %{a: 1, b: 2, c: 3}, events: [_, _], links: [^context]} =
                   Span.current_span()
        end

        assert_received {@stop, _, %{name: :inner, attributes: %{}, events: [], links: []}}

        assert_received {@stop, _,
                         %{
                           name: :outer,
                           attributes: %{a: 1, b: 2, c: 3},
                           links: [^context],
                           events: events
                         }}

        assert [%{name: :first, attributes: %{n: 1}}, %{name: :second, attributes: %{}}] = events
      end

      test "a span keeps the first 128 events and links" do
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}

        Span.with_span :many do
          for n <- 1..200, do: Span.record_event(n)
          for _ <- 1..200, do: Span.link_span(context)
        end

        assert_received {@stop, _, %{events: events, links: links}}
        assert for(%{name: n} <- events, do: n) == Enum.to_list(1..128)
        assert length(links) == 128
      end

      test "with_span returns its block's value and ends on a raise, throw or exit" do
        assert Span.with_span(:value, %{}, do: {:ok, Span.current_span().name}) == {:ok, :value}
        assert_received {@stop, _, %{name: :value, status: :ok}}

        error = assert_raise RuntimeError, fn -> Span.with_span(:fails, %{}, do: raise("no")) end

        assert_received {@exception, %{duration: duration},
                         %{
                           name: :fails,
                           status: :error,
                           kind: :error,
                           reason: ^error,
                           stacktrace: [_ | _]
                         }}

        assert duration >= 0
        assert catch_throw(Span.with_span(:throws, %{}, do: throw(:ball))) == :ball
        assert_received {@exception, _, %{name: :throws, kind: :throw, reason: :ball}}
        assert catch_exit(Span.with_span_fun(:exits, %{}, fn -> exit(:out) end)) == :out
        assert_received {@exception, _, %{name: :exits, kind: :exit, reason: :out}}

        assert Span.current_span() == nil
        refute_received {@stop, _, _}
      end

      test "a raise in with_span also ends the spans started by hand inside it" do
        outer = Span.start_span(:outer)

        assert_raise RuntimeError, fn ->
          Span.with_span :fails, %{} do
            Span.start_span(:left)
            Span.start_span(:inner)
            raise "no"
          end
        end

        assert Span.current_span().span_id == outer
        assert_received {@abandoned, %{duration: _}, %{name: :inner, status: :abandoned}}
        assert_received {@abandoned, _, %{name: :left}}
        assert_received {@exception, _, %{name: :fails}}
        # This span has ended inside already, so the throw must not end the one around it.
        catch_throw(Span.with_span(:ended, %{}, do: {Span.end_span(), throw(:no)}))
        assert Span.current_span().span_id == outer
        assert :ok = Span.end_span(outer)
        refute_received {@abandoned, _, _}
      end

      test "a raise keeps its stacktrace" do
        stacktrace =
          try do
            Span.with_span(:fails, %{}, do: :erlang.binary_to_integer("one"))
          rescue
            ArgumentError -> __STACKTRACE__
          end

        assert [{:erlang, :binary_to_integer, _, _} | _] = stacktrace
        assert_received {@exception, _, %{stacktrace: ^stacktrace, reason: :badarg}}
      end

      test "with_span accepts a block that has ended its own span" do
        assert Span.with_span(:own, %{}, do: Span.end_span()) == :ok
        assert_received {@stop, _, %{name: :own}}
        refute_received {@stop, _, _}
      end

      test "names and attributes of every type of term are returned" do
        for name <- [
              nil,
              "name",
              [:a],
              {1, %{x: [1.5]}},
              make_ref(),
              1 <<< 80,
              String.duplicate("x", 10_000)
            ] do
          Span.with_span name, %{name => name} do
            assert %{name: ^name, attributes: %{^name => ^name}} = Span.current_span()
          end

          assert_received {@stop, _, %{name: ^name, attributes: %{^name => ^name}}}
        end
      end

      test "spans do not use the process dictionary" do
        before = Process.get()

        Span.with_span :outer, %{} do
          Span.start_span(:inner)
          Span.record_event(:e)
          Span.add_attributes(%{a: 1})
          assert Process.get() == before
          Span.end_span()
        end

        Span.with_propagated_context(
          %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)},
          fn -> :ok end
        )

        assert Process.get() == before
      end

      test "span ids are unique" do
        ids =
          together(4, fn _ ->
            for _ <- 1..500,
                do:
                  Span.with_span(:id, %{},
                    do: {Span.current_span().span_id, Span.current_trace_id()}
                  )
          end)
          |> List.flatten()

        assert ids |> Enum.map(&elem(&1, 0)) |> Enum.uniq() |> length() == 2_000
        assert ids |> Enum.map(&elem(&1, 1)) |> Enum.uniq() |> length() == 2_000
      end

      test "a deep recursion of spans opens and closes every span" do
        assert deep(5_000) == :bottom
        assert Span.current_span() == nil
        assert length(received(@stop)) == 5_000
      end

      test "a span beyond the depth bound is not tracked, and its block runs" do
        for _ <- 1..10_000, do: Span.start_span(:level)
        assert Span.with_span(:too_deep, %{}, do: Span.current_span().name) == :level
        for _ <- 1..10_000, do: assert(:ok = Span.end_span())
        assert {:error, :not_found} = Span.end_span()
      end

      test "attributes that are not a map raise" do
        # The value comes from a list, because a type checker would reject a literal.
        for wrong <- [[1], nil] do
          assert_raise ArgumentError, ~r/expected attributes to be a map/, fn ->
            Span.start_span(:a, wrong)
          end
        end

        assert_raise ArgumentError, ~r/expected attributes to be a map/, fn ->
          Span.add_attributes(nil)
        end

        assert_raise ArgumentError, ~r/expected attributes to be a map/, fn ->
          Span.record_event(:e, 1)
        end

        assert_raise ArgumentError, ~r/expected a context to be/, fn -> Span.link_span(%{}) end
      end
    end

    describe "propagation on the #{engine} engine:" do
      @describetag engine: engine

      test "the spans of a task continue the trace of its parent" do
        Span.with_span :parent do
          context = Span.propagate_context()
          assert %{span_id: id, trace_id: trace} = context
          assert id == Span.current_span().span_id

          task =
            Task.async(fn ->
              Span.with_propagated_context(context, fn ->
                assert Span.current_trace_id() == trace
                assert %{span_id: ^id, trace_id: ^trace, remote: true} = Span.current_span()
                assert {:error, :not_found} = Span.end_span()
                assert {:error, :not_found} = Span.add_attributes(%{a: 1})
                Span.with_span(:child, %{}, do: Span.current_span())
              end)
            end)

          assert %{parent_id: ^id, trace_id: ^trace} = Task.await(task, 30_000)
        end
      end

      test "the previous context is restored after the function returns or raises" do
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}
        id = Span.start_span(:own)

        assert Span.with_propagated_context(context, fn -> Span.current_trace_id() end) ==
                 context.trace_id

        assert %{span_id: ^id} = Span.current_span()

        assert_raise RuntimeError, fn ->
          Span.with_propagated_context(context, fn ->
            Span.start_span(:left)
            Span.start_span(:open)
            raise "no"
          end)
        end

        assert %{span_id: ^id} = Span.current_span()

        assert [:open, :left] =
                 for({_, %{name: name, status: :abandoned}} <- received(@abandoned), do: name)

        assert :ok = Span.end_span(id)
      end

      test "the tracestate of a context is carried through unchanged" do
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}
        tracestate = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE ,,other@vendor=~!"
        assert Span.to_tracestate() == nil

        Span.with_propagated_context(Map.put(context, :tracestate, tracestate), fn ->
          assert %{tracestate: ^tracestate} = Span.propagate_context()

          Span.with_span_fun(:outer, %{}, fn ->
            Span.add_attributes(%{more: 1})

            Span.with_span_fun(:inner, %{}, fn ->
              assert Span.to_tracestate() == tracestate
              handed = Span.propagate_context()

              task =
                Task.async(fn ->
                  Span.with_propagated_context(handed, &Span.propagate_context/0)
                end)

              assert Task.await(task) == handed
            end)

            # A context without one has none, whatever is around it.
            Span.with_propagated_context(context, fn ->
              refute Map.has_key?(Span.propagate_context(), :tracestate)
              Span.with_span_fun(:other, %{}, fn -> assert Span.to_tracestate() == nil end)
            end)

            assert Span.to_tracestate() == tracestate
          end)
        end)

        Span.with_span_fun(:own, %{}, fn -> assert Span.to_tracestate() == nil end)
      end

      test "a tracestate longer than 512 characters loses whole members from its end" do
        member = fn n -> "key#{n}=" <> String.duplicate("v", 100) end
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}

        for {given, kept} <- [
              {String.duplicate("x", 512), String.duplicate("x", 512)},
              {Enum.map_join(1..5, ",", member), Enum.map_join(1..4, ",", member)},
              {Enum.map_join(1..5_000, ",", member), Enum.map_join(1..4, ",", member)},
              {String.duplicate("x", 513), nil},
              {"", nil},
              {"a=1\r\nset-cookie: x", nil},
              {"a=é", nil},
              {<<"a=", 255>>, nil}
            ] do
          context = Map.put(context, :tracestate, given)
          assert Span.with_propagated_context(context, &Span.to_tracestate/0) == kept
        end

        for wrong <- [:a, ["a=1"], 1, <<1::3>>] do
          assert_raise ArgumentError, ~r/expected :tracestate to be a string or nil/, fn ->
            Span.with_propagated_context(Map.put(context, :tracestate, wrong), fn -> :ok end)
          end
        end
      end

      test "an outer span that ends inside a context leaves the context in place" do
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}
        first = Span.start_span(:first)
        second = Span.start_span(:second)

        Span.with_propagated_context(context, fn ->
          Span.end_span(first)
          assert Span.current_trace_id() == context.trace_id
        end)

        assert %{span_id: ^second} = Span.current_span()
        Span.end_span()
        assert received(@abandoned) == []
      end

      test "a traceparent header survives a round trip" do
        Span.with_span :out do
          header = Span.to_traceparent()
          assert header =~ ~r/\A00-[0-9a-f]{32}-[0-9a-f]{16}-01\z/
          assert {:ok, context} = Span.from_traceparent(header)
          assert context == Span.propagate_context()
        end

        header = "00-" <> String.duplicate("a", 32) <> "-" <> String.duplicate("b", 16) <> "-00"
        {:ok, context} = Span.from_traceparent(header)
        assert Span.with_propagated_context(context, fn -> Span.to_traceparent() end) == header

        assert <<_::binary-52, "-00">> =
                 Span.with_propagated_context(context, fn ->
                   Span.with_span(:in, %{}, do: Span.to_traceparent())
                 end)
      end

      test "an outgoing traceparent has only the sampled flag" do
        ids = String.duplicate("a", 32) <> "-" <> String.duplicate("b", 16)

        for {flags, known} <- [{"ff", "01"}, {"fe", "00"}, {"03", "01"}, {"80", "00"}],
            version <- ["00", "cc"] do
          {:ok, context} = Span.from_traceparent("#{version}-#{ids}-#{flags}")
          header = Span.with_propagated_context(context, &Span.to_traceparent/0)
          assert header == "00-#{ids}-#{known}"
          by_hand = %{context | trace_flags: String.to_integer(flags, 16)}
          assert Span.with_propagated_context(by_hand, &Span.to_traceparent/0) == header
          within = fn -> Span.with_span(:in, %{}, do: Span.to_traceparent()) end
          assert Span.with_propagated_context(by_hand, within) =~ ~r/-#{known}\z/
        end
      end

      test "a nil context changes nothing, and an invalid one raises" do
        assert Span.with_propagated_context(nil, fn -> :ran end) == :ran

        for wrong <- [
              %{},
              %{trace_id: "x", span_id: "y"},
              :context,
              %{trace_id: String.duplicate("0", 32), span_id: String.duplicate("b", 16)}
            ] do
          assert_raise ArgumentError, ~r/expected a context to be/, fn ->
            Span.with_propagated_context(wrong, fn -> :ok end)
          end
        end
      end
    end

    describe "deaths and faults on the #{engine} engine:" do
      @describetag engine: engine

      test "the death of a process abandons each of its open spans once" do
        pid =
          spawn(fn ->
            Span.with_span(:outer, %{a: 1},
              do: Span.with_span(:inner, %{}, do: Process.exit(self(), :kill))
            )
          end)

        assert_receive {@abandoned, %{duration: duration}, %{name: :inner, status: :abandoned}},
                       2_000

        assert_receive {@abandoned, _, %{name: :outer, attributes: %{a: 1}}}
        assert duration >= 0
        refute Process.alive?(pid)
        refute_receive {@abandoned, _, _}, 50
      end

      test "a process that ends after its spans abandons no span" do
        Task.await(Task.async(fn -> for _ <- 1..10, do: Span.with_span(:done, %{}, do: :ok) end))
        # A later abandoned span marks that the earlier death was handled.
        spawn(fn -> Span.start_span(:mark) end)
        assert_receive {@abandoned, _, %{name: :mark}}
        assert received(@abandoned) == []
      end

      test "open spans survive a kill of the span process" do
        id = Span.start_span(:before, %{n: 1})
        kill_server(Span)
        assert %{span_id: ^id} = Span.current_span()
        assert :ok = Span.end_span(id)
        assert_received {@stop, _, %{name: :before, attributes: %{n: 1}}}
      end

      test "spans start, end and are abandoned while the span process is away" do
        early = start_supervised!({Task, fn -> hold(:early) end}, id: :early)
        assert_receive {@start, _, %{name: :early}}
        :ok = Supervisor.terminate_child(Foundation.TelemetrySupervisor, Span)
        assert Span.with_span(:meanwhile, %{}, do: :ok) == :ok
        assert_received {@stop, _, %{name: :meanwhile}}
        late = spawn(fn -> hold(:late) end)
        assert_receive {@start, _, %{name: :late}}

        for pid <- [early, late] do
          ref = Process.monitor(pid)
          Process.exit(pid, :kill)
          assert_receive {:DOWN, ^ref, _, _, _}
        end

        {:ok, _} = Supervisor.restart_child(Foundation.TelemetrySupervisor, Span)
        assert_receive {@abandoned, _, %{name: :early}}
        assert_receive {@abandoned, _, %{name: :late}}
        refute_receive {@abandoned, _, _}, 50
      end

      test "killing the span process under load loses no span" do
        killer = Task.async(fn -> for _ <- 1..5, do: {Process.sleep(20), kill_server(Span)} end)

        together(8, fn i ->
          for n <- 1..300 do
            id = Span.start_span({i, n})
            assert Span.with_span(:inner, %{}, do: Span.current_span().parent_id) == id
            assert :ok = Span.end_span(id)
          end
        end)

        Task.await(killer, 30_000)
        assert length(received(@start)) == 4_800
        assert length(received(@stop)) == 4_800
        assert received(@abandoned) == []
      end

      test "a span process killed while it reports abandoned spans loses none" do
        deaths = :counters.new(1, [])
        id = {__MODULE__, make_ref()}
        :ok = :telemetry.attach(id, @abandoned, &__MODULE__.die_or_tell/4, {deaths, self()})
        on_exit(fn -> :telemetry.detach(id) end)

        pid =
          spawn(fn ->
            for n <- 1..9, do: Span.start_span(n)
            hold(10)
          end)

        assert_receive {@start, _, %{name: 10}}
        Process.exit(pid, :kill)
        for n <- 10..1//-1, do: assert_receive({:told, ^n})
        assert :counters.get(deaths, 1) == 3
        refute_receive {:told, _}, 50
      end

      test "a context is left in order when the tables go inside of it" do
        context = %{trace_id: String.duplicate("a", 32), span_id: String.duplicate("b", 16)}

        assert Span.with_propagated_context(context, fn ->
                 stop_supervised!(Foundation.TelemetrySupervisor)
                 :done
               end) == :done

        assert Span.current_span() == nil
      end

      test "every span of a thousand processes that die at once is abandoned once" do
        pids = for n <- 1..1_000, do: spawn(fn -> hold(n) end)
        for n <- 1..1_000, do: assert_receive({@start, _, %{name: ^n}})
        Enum.each(pids, &Process.exit(&1, :kill))

        names =
          for _ <- 1..1_000 do
            assert_receive {@abandoned, _, %{name: name}}
            name
          end

        assert Enum.sort(names) == Enum.to_list(1..1_000)
        refute_receive {@abandoned, _, _}, 50
      end
    end
  end

  describe "from_traceparent/1" do
    @trace String.duplicate("a", 32)
    @span String.duplicate("b", 16)

    test "accepts versions 01 to fe, with or without further fields" do
      for header <- [
            "01-#{@trace}-#{@span}-01",
            "fe-#{@trace}-#{@span}-ff-",
            "cc-#{@trace}-#{@span}-01-what-ever"
          ] do
        assert {:ok, %{trace_id: @trace, span_id: @span}} = Span.from_traceparent(header)
      end
    end

    test "takes a tracestate with a header, and none with an invalid one" do
      header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
      assert {:ok, context} = Span.from_traceparent(header)
      assert Span.from_traceparent(header, nil) == {:ok, context}

      assert Span.from_traceparent(header, "a=1,b=2") ==
               {:ok, Map.put(context, :tracestate, "a=1,b=2")}

      assert Span.from_traceparent("00-x", "a=1") == {:error, :invalid_format}
    end

    test "trims the spaces and tabs around a header" do
      for {before, behind} <- [{" ", ""}, {"", " "}, {"\t ", " \t"}, {"   ", "\t\t"}],
          header <- ["00-#{@trace}-#{@span}-01", "cc-#{@trace}-#{@span}-01-more"] do
        assert {:ok, %{trace_id: @trace, span_id: @span, trace_flags: 1}} =
                 Span.from_traceparent(before <> header <> behind)
      end

      assert {:error, :invalid_format} = Span.from_traceparent(" \t ")
    end

    test "rejects headers that the W3C standard rejects" do
      for header <- [
            "ff-#{@trace}-#{@span}-01",
            "00-#{@trace}-#{@span}-01-more",
            "00-#{@trace}-#{@span}-01-",
            "01-#{@trace}-#{@span}-01.more",
            "01-#{@trace}-#{@span}-011",
            "00-#{String.upcase(@trace)}-#{@span}-01",
            "00-#{@trace}-#{String.upcase(@span)}-01",
            "00-#{@trace}-#{@span}-0A",
            "0A-#{@trace}-#{@span}-01",
            "00-#{String.duplicate("0", 32)}-#{@span}-01",
            "00-#{@trace}-#{String.duplicate("0", 16)}-01",
            "\n00-#{@trace}-#{@span}-01",
            "00-#{@trace}-#{@span}-01\n",
            "00_#{@trace}-#{@span}-01",
            "00-#{@trace}-#{@span}",
            "00-#{@trace}x-#{@span}-01",
            "0-#{@trace}-#{@span}-01",
            "",
            nil,
            :header
          ] do
        assert {:error, reason} = Span.from_traceparent(header)
        assert is_atom(reason)
      end
    end
  end

  @doc false
  def die_or_tell(_event, _measurements, %{name: name}, {deaths, test}) do
    if :counters.get(deaths, 1) < 3 do
      :counters.add(deaths, 1, 1)
      Process.exit(Process.whereis(Span), :kill)
    end

    send(test, {:told, name})
  end

  defp hold(name) do
    Span.start_span(name)
    Process.sleep(:infinity)
  end

  defp deep(0), do: :bottom
  defp deep(n), do: Span.with_span(n, %{}, do: deep(n - 1))

  defp a <<< b, do: Bitwise.bsl(a, b)

  # In an application of the ETS engine the native tables are closed. They look the same while the
  # library is absent.
  describe "while the native tables are absent" do
    @describetag engine: :ets

    test "the native backend has no abandoned spans, and looks again later" do
      assert Foundation.Telemetry.Span.Backends.Native.abandoned(:abandoned) == {[], :done, 0}
      assert_receive :abandoned
    end
  end

  describe "the monitor of the ETS engine" do
    @describetag engine: :ets

    test "loses no death while it is killed" do
      test = self()

      pids =
        for n <- 1..50 do
          if rem(n, 10) == 0, do: kill_server(Span.Monitor)

          spawn(fn ->
            Span.start_span(n)
            send(test, {:started, n})
            receive do: (:end -> :ok)
          end)
        end

      for n <- 1..50, do: assert_receive({:started, ^n})
      Process.exit(Process.whereis(Span.Monitor), :kill)
      Enum.each(pids, &send(&1, :end))
      for n <- 1..50, do: assert_receive({@abandoned, _, %{name: ^n}})
      eventually(fn -> :ets.tab2list(:span_contexts) == [] end)
      assert received(@abandoned) == []
    end

    test "ends no span of a live process" do
      Span.start_span(:open)
      send(Span.Monitor, {:DOWN, make_ref(), :process, self(), :stray})
      send(Span.Monitor, {:watch, :stray})
      :sys.get_state(Span.Monitor)
      :sys.get_state(Span)
      assert Span.end_span() == :ok
      assert received(@abandoned) == []
    end
  end

  for engine <- [:ets, :native] do
    describe "while a handler of abandoned spans blocks, on the #{engine} engine," do
      @describetag engine: engine
      @describetag timeout: 180_000
      @waiting 100_000

      test "no more than #{@waiting} wait, and the others are counted" do
        events = [[:foundation, :span, :abandoned], [:foundation, :span, :dropped]]
        counts = :counters.new(3, [])
        handler = &__MODULE__.block_first/4
        :ok = :telemetry.attach_many(:blocking, events, handler, {self(), counts})
        on_exit(fn -> :telemetry.detach(:blocking) end)

        die_in_span(counts)
        assert_receive {:blocked, server}
        extra = 500
        for _ <- 1..(@waiting + extra), do: die_in_span(counts)
        eventually(fn -> :counters.get(counts, 3) == @waiting + extra + 1 end, 60_000)
        eventually(fn -> watched(unquote(engine)) == 0 end, 60_000)

        send(server, :go)
        # The span that the handler is working on no longer waits.
        eventually(fn -> :counters.get(counts, 1) == @waiting + 1 end, 60_000)
        eventually(fn -> :counters.get(counts, 2) == extra end, 60_000)
        if unquote(engine) == :ets, do: eventually(fn -> :ets.tab2list(:span_contexts) == [] end)
      end
    end
  end

  defp die_in_span(counts) do
    spawn(fn ->
      Span.start_span(:doomed)
      :counters.add(counts, 3, 1)
    end)
  end

  # Processes that have had a span and are not known to be dead.
  defp watched(:native), do: Foundation.Native.live_counts().spans

  defp watched(:ets),
    do: :ets.select_count(:span_contexts, [{{{:_, 0}, :watched}, [], [true]}])

  def block_first([_, _, :dropped], %{count: count}, _metadata, {_test, counts}),
    do: :counters.add(counts, 2, count)

  def block_first(_abandoned, _measurements, _metadata, {test, counts}) do
    if :counters.get(counts, 1) == 0 do
      send(test, {:blocked, self()})
      receive do: (:go -> :ok)
    end

    :counters.add(counts, 1, 1)
  end
end
