defmodule Foundation.Telemetry.SampledEventsTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Telemetry.{Sampler, SampledEvents}

  defmodule Events do
    use SampledEvents, prefix: [:suite]

    def own_span(value), do: span(:inner, %{}, do: value)
  end

  doctest SampledEvents

  @event [:suite, :event]
  @batch [:suite, :batch]
  @batched [:batched | @batch]

  defp counts(name), do: name |> SampledEvents.stats() |> Map.drop([:windows, :evicted])

  defp balanced?(stats) do
    stats.offered ==
      stats.emitted + stats.suppressed + stats.sampled_out + stats.dropped + stats.pending
  end

  for engine <- [:ets, :native] do
    describe "windows on the #{engine} engine:" do
      @describetag engine: engine

      test "the first of a window is emitted as given, its repeats are suppressed" do
        listen([@event])
        assert :ok = SampledEvents.emit_event(@event, %{n: 1}, %{id: 1})
        assert :ok = SampledEvents.emit_event(@event, %{n: 2}, %{id: 1})
        assert received(@event) == [{%{n: 1}, %{id: 1}}]
        assert %{offered: 2, emitted: 1, suppressed: 1} = counts(@event)
      end

      test "metadata tells keys apart, and 1 is not 1.0" do
        listen([@event])

        for id <- [1, 1.0, "1", :"1", [1], {1}, %{}, nil],
            do: SampledEvents.emit_event(@event, %{}, %{id: id})

        assert length(received(@event)) == 8
      end

      @tag settings: [window: 60_000]
      test "keys of every kind of term open a window of their own, once" do
        # Without a key, which these two are, the metadata is it.
        keys = for {_name, key} <- Foundation.Terms.all(), key not in [nil, false], do: key
        for key <- keys ++ keys, do: SampledEvents.emit_event(@event, %{}, %{}, dedup_key: key)
        assert %{emitted: n, suppressed: n} = counts(@event)
        assert n == length(keys)
      end

      test "maps that are equal are one key, however they were built" do
        pairs = for i <- 1..200, do: {{:key, i}, i}
        SampledEvents.emit_event(@event, %{}, Map.new(pairs))
        SampledEvents.emit_event(@event, %{}, Map.new(Enum.reverse(pairs)))

        SampledEvents.emit_event(
          @event,
          %{},
          pairs |> Map.new() |> Map.put(:x, 1) |> Map.delete(:x)
        )

        assert %{emitted: 1, suppressed: 2} = counts(@event)
      end

      test "a dedup key in the options wins over one in the metadata, that over the metadata" do
        SampledEvents.emit_event(@event, %{}, %{dedup_key: :a, n: 1})
        SampledEvents.emit_event(@event, %{}, %{dedup_key: :a, n: 2})
        assert %{emitted: 1} = counts(@event)
        SampledEvents.emit_event(@event, %{}, %{dedup_key: :a}, dedup_key: :b)
        SampledEvents.emit_event(@event, %{}, %{}, dedup_key: :b)
        assert %{emitted: 2, suppressed: 2} = counts(@event)
        SampledEvents.emit_event(@event, %{}, %{dedup_key: nil, n: 3})
        SampledEvents.emit_event(@event, %{}, %{dedup_key: false, n: 4})
        assert %{emitted: 4} = counts(@event)
      end

      test "a window lasts its time from its first event, whatever comes meanwhile" do
        listen([@event])
        started = System.monotonic_time(:millisecond)

        eventually(fn ->
          SampledEvents.emit_event(@event, %{at: System.monotonic_time(:millisecond)}, %{},
            window: 100
          )

          System.monotonic_time(:millisecond) - started > 350
        end)

        times = for {%{at: at}, _} <- received(@event), do: at
        # How often it is asked depends on the machine; extended by repeats, it would open once.
        assert length(times) in 2..4
        for [a, b] <- Enum.chunk_every(times, 2, 1, :discard), do: assert(b - a >= 99)
      end

      @tag settings: [max_windows: 4, window: 60_000]
      test "an event's counts are of its own windows" do
        for id <- 1..3, do: SampledEvents.emit_event(@event, %{}, %{id: id})
        for id <- 1..3, do: SampledEvents.emit_event([:_], %{}, %{id: id})
        assert %{windows: 1, evicted: 2} = SampledEvents.stats(@event)
        assert %{windows: 3, evicted: 0} = SampledEvents.stats([:_])
        assert %{windows: 4, evicted: 2} = SampledEvents.stats()
        assert %{windows: 0, evicted: 0, offered: 0} = SampledEvents.stats([:suite, :unknown])
      end

      test "an event's own windows are closed when they have expired" do
        for id <- 1..10, do: SampledEvents.emit_event(@event, %{}, %{id: id}, window: 1)
        other = [:suite, :other]
        for id <- 1..2, do: SampledEvents.emit_event(other, %{}, %{id: id}, window: 60_000)
        eventually(fn -> SampledEvents.stats(@event).windows == 0 end)
        assert %{windows: 2} = SampledEvents.stats(other)
      end

      test "an event's own window holds where none is given, and one of 0 suppresses nothing" do
        :ok = SampledEvents.configure_event(@event, window: 0)
        for _ <- 1..5, do: SampledEvents.emit_event(@event, %{}, %{})
        assert %{emitted: 5} = counts(@event)
        SampledEvents.emit_event(@event, %{}, %{}, window: 60_000)
        SampledEvents.emit_event(@event, %{}, %{}, window: 60_000)
        assert %{emitted: 6, suppressed: 1} = counts(@event)
      end

      test "one of 50 racing processes wins each window" do
        listen([@event])

        together(50, fn _ ->
          for key <- 1..200,
              do: SampledEvents.emit_event(@event, %{}, %{key: key}, window: 60_000)
        end)

        assert %{offered: 10_000, emitted: 200, suppressed: 9_800} = counts(@event)
        keys = for {_, %{key: key}} <- received(@event), do: key
        assert Enum.sort(keys) == Enum.to_list(1..200)
      end

      test "one of 20 racing processes wins each reopening of a window that has expired" do
        listen([@event])
        window = 30
        started = System.monotonic_time(:millisecond)

        together(20, fn _ ->
          stop = System.monotonic_time(:millisecond) + 500
          emit_until(stop, window)
        end)

        elapsed = System.monotonic_time(:millisecond) - started
        emitted = length(received(@event))
        assert emitted >= 5
        assert emitted <= div(elapsed, window) + 1
        assert %{emitted: ^emitted} = stats = counts(@event)
        assert balanced?(stats)
      end

      @tag settings: [max_windows: 10]
      test "past the bound the oldest window goes, and is counted" do
        for key <- 1..11, do: SampledEvents.emit_event(@event, %{}, %{key: key}, window: 60_000)
        assert %{windows: 10, evicted: 1} = SampledEvents.stats()
        for key <- 2..11, do: SampledEvents.emit_event(@event, %{}, %{key: key}, window: 60_000)
        assert %{emitted: 11, suppressed: 10} = counts(@event)
        SampledEvents.emit_event(@event, %{}, %{key: 1}, window: 60_000)
        assert %{emitted: 12} = counts(@event)
      end

      @tag settings: [max_windows: 1_000]
      test "many keys from many processes stay within the bound" do
        together(8, fn i ->
          for key <- 1..5_000,
              do: SampledEvents.emit_event(@event, %{}, %{key: {i, key}}, window: 60_000)
        end)

        assert %{windows: windows, evicted: evicted, emitted: 40_000} = SampledEvents.stats()
        assert windows <= 1_000
        assert windows + evicted == 40_000
      end

      test "expired windows are closed by themselves" do
        for key <- 1..100, do: SampledEvents.emit_event(@event, %{}, %{key: key}, window: 20)
        SampledEvents.emit_event(@event, %{}, %{key: :long}, window: 60_000)
        eventually(fn -> SampledEvents.stats().windows == 1 end)
        assert SampledEvents.stats().evicted == 0
      end

      test "a name has 32 atoms at most" do
        longest = List.duplicate(:a, 32)
        assert :ok = SampledEvents.emit_event(longest, %{}, %{})
        assert %{emitted: 1} = counts(longest)
        longer = [:a | longest]

        for refused <- [
              &SampledEvents.emit_event(&1, %{}, %{}),
              &SampledEvents.emit_batched(&1, %{}, %{}),
              &SampledEvents.flush/1,
              &SampledEvents.stats/1,
              &SampledEvents.configure_event(&1, window: 1)
            ] do
          assert_raise ArgumentError, ~r/to have at most 32 atoms, got 33: /, fn ->
            refused.(longer)
          end
        end
      end

      test "a name that is no list of atoms is refused, and so is a wrong window" do
        for name <- [:event, [], ["a"], [:a, 1], [:a | :b], nil] do
          assert_raise ArgumentError,
                       ~r/expected an event name to be a non-empty list of atoms/,
                       fn ->
                         SampledEvents.emit_event(name, %{}, %{})
                       end

          assert_raise ArgumentError, ~r/expected an event name/, fn ->
            SampledEvents.emit_batched(name, %{}, %{})
          end
        end

        for window <- [-1, 1.5, :infinity, "1"] do
          assert_raise ArgumentError, ~r/expected :window of .* to be an integer/, fn ->
            SampledEvents.emit_event(@event, %{}, %{}, window: window)
          end
        end

        assert_raise ArgumentError, ~r/got: :windw, did you mean :window/, fn ->
          SampledEvents.configure_event(@event, windw: 1)
        end

        assert_raise ArgumentError, ~r/expected :batch_size of .* to be an integer/, fn ->
          SampledEvents.configure_event(@event, batch_size: 0)
        end
      end

      test "repeats are decided before the strategy, so that they use up no rate" do
        :ok = Sampler.configure_event(@event, {:rate_limited, 2})
        for _ <- 1..10, do: SampledEvents.emit_event(@event, %{}, %{key: 1})
        for key <- 2..4, do: SampledEvents.emit_event(@event, %{}, %{key: key})
        assert %{emitted: 2, suppressed: 9, sampled_out: 2} = counts(@event)
        assert %{offered: 4, sampled: 2} = Sampler.get_stats(@event)
      end
    end

    describe "batches on the #{engine} engine:" do
      @describetag engine: engine

      @tag settings: [batch_size: 3, batch_timeout: 60_000]
      test "a full batch is emitted with its figures, oldest event first" do
        listen([@batched])
        before = System.system_time()

        for {n, i} <- Enum.with_index([5, 1.5, 3]),
            do: SampledEvents.emit_batched(@batch, %{n: n, text: "no number"}, %{i: i})

        assert_receive {@batched, measurements, metadata}
        assert measurements == %{count: 3, sum: %{n: 9.5}, min: %{n: 1.5}, max: %{n: 5}}
        assert for(%{metadata: %{i: i}} <- metadata.events, do: i) == [0, 1, 2]

        assert hd(metadata.events) == %{
                 measurements: %{n: 5, text: "no number"},
                 metadata: %{i: 0}
               }

        assert before <= metadata.first_at and metadata.first_at <= metadata.last_at
        assert metadata.last_at <= System.system_time()
        eventually(fn -> counts(@batch).pending == 0 end)
        assert %{offered: 3, emitted: 3} = counts(@batch)
      end

      @tag settings: [batch_size: 100, batch_timeout: 50]
      test "a batch that does not fill is emitted when its time is up" do
        listen([@batched])
        SampledEvents.emit_batched(@batch, %{n: 1}, %{})
        assert %{pending: 1} = counts(@batch)
        assert_receive {@batched, %{count: 1}, _}, 1_000
        SampledEvents.emit_batched(@batch, %{n: 2}, %{})
        assert_receive {@batched, %{count: 1, sum: %{n: 2}}, _}, 1_000
      end

      @tag settings: [batch_size: 7, batch_timeout: 60_000]
      test "flush emits what is pending, in batches of the size at most" do
        listen([@batched])
        for n <- 1..17, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert :ok = SampledEvents.flush()
        sizes = for {%{count: count}, _} <- received(@batched), do: count
        assert Enum.sum(sizes) == 17 and Enum.max(sizes) <= 7
        assert %{offered: 17, emitted: 17, pending: 0} = counts(@batch)
      end

      @tag settings: [batch_timeout: 60_000]
      test "flush of one event leaves the others pending" do
        SampledEvents.emit_batched(@batch, %{}, %{})
        SampledEvents.emit_batched([:suite, :other], %{}, %{})
        assert :ok = SampledEvents.flush(@batch)
        assert %{emitted: 1, pending: 0} = counts(@batch)
        assert %{emitted: 0, pending: 1} = counts([:suite, :other])
        assert %{emitted: 1, pending: 1, offered: 2} = SampledEvents.stats()
      end

      @tag settings: [batch_timeout: 60_000, max_pending: 50, batch_size: 1_000]
      test "past the bound the newest is dropped, over all names" do
        listen([@batched])
        for n <- 1..40, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        for n <- 1..20, do: SampledEvents.emit_batched([:suite, :other], %{n: n}, %{})
        assert %{pending: 50, dropped: 10, offered: 60} = SampledEvents.stats()
        assert %{pending: 10, dropped: 10} = counts([:suite, :other])
        SampledEvents.flush()
        assert_received {@batched, %{count: 40, min: %{n: 1}}, _}
        SampledEvents.emit_batched(@batch, %{}, %{})
        assert %{pending: 1, dropped: 10} = SampledEvents.stats()
      end

      @tag settings: [batch_size: 10, batch_timeout: 60_000]
      test "an event has batches of its own settings" do
        listen([@batched])
        :ok = SampledEvents.configure_event(@batch, batch_size: 2)
        for n <- 1..4, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert_receive {@batched, %{count: 2, sum: %{n: 3}}, _}
        assert_receive {@batched, %{count: 2, sum: %{n: 7}}, _}
        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        SampledEvents.emit_batched(@batch, %{n: 5}, %{})
        assert_receive {@batched, %{count: 1}, _}, 1_000
      end

      @tag settings: [batch_size: 100, batch_timeout: 60_000]
      test "what is pending is cut by a smaller size and waits for a shorter timeout" do
        listen([@batched])
        for n <- 1..10, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        :ok = SampledEvents.configure_event(@batch, batch_size: 4)
        # Well before the processor's tick finds it.
        assert_receive {@batched, %{count: 4, sum: %{n: 10}}, _}, 500
        assert_receive {@batched, %{count: 4, sum: %{n: 26}}, _}, 500
        assert %{pending: 2, emitted: 8} = counts(@batch)
        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        assert_receive {@batched, %{count: 2, sum: %{n: 19}}, _}, 500
      end

      @tag settings: [batch_timeout: 60_000]
      test "flush by a handler of a batch has what is pending emitted after it" do
        test = self()

        handler = fn _, %{count: count}, _, _ ->
          send(test, {:handled, count})

          if count == 1 do
            for _ <- 1..2, do: SampledEvents.emit_batched(@batch, %{}, %{})
            send(test, {:flushed, SampledEvents.flush(), SampledEvents.flush(@batch)})
          end
        end

        :telemetry.attach(:flushes, @batched, handler, nil)
        on_exit(fn -> :telemetry.detach(:flushes) end)
        SampledEvents.emit_batched(@batch, %{}, %{})
        assert :ok = SampledEvents.flush()
        assert_received {:handled, 1}
        assert_received {:flushed, :ok, :ok}
        assert_receive {:handled, 2}, 1_000
      end

      @tag settings: [batch_timeout: 60_000]
      test "flush outlasts kills of the processor" do
        listen([@batched])
        flusher = Task.async(fn -> for _ <- 1..2_000, do: :ok = SampledEvents.flush() end)

        for _ <- 1..5 do
          SampledEvents.emit_batched(@batch, %{}, %{})
          kill_server(SampledEvents)
        end

        Task.await(flusher, 30_000)
        assert :ok = SampledEvents.flush()
        assert %{offered: 5, emitted: 5} = counts(@batch)
      end

      @tag settings: [batch_size: 25, batch_timeout: 50]
      test "each process's events are in order within a batch and from batch to batch" do
        listen([@batched])

        together(8, fn i ->
          for n <- 1..500, do: SampledEvents.emit_batched(@batch, %{n: n}, %{process: i})
        end)

        SampledEvents.flush()
        events = for {_, %{events: events}} <- received(@batched), event <- events, do: event
        assert length(events) == 4_000

        for {_i, own} <- Enum.group_by(events, & &1.metadata.process),
            do: assert(for(%{measurements: %{n: n}} <- own, do: n) == Enum.to_list(1..500))
      end

      @tag settings: [batch_size: 1_000, batch_timeout: 60_000]
      test "any term comes back from a batch as it went in" do
        listen([@batched])
        terms = for {_name, term} <- Foundation.Terms.all(), do: term

        for {term, i} <- Enum.with_index(terms),
            do: SampledEvents.emit_batched(@batch, %{i => term}, %{term: term})

        SampledEvents.flush()
        assert [{_, %{events: events}}] = received(@batched)

        for {event, {term, i}} <- Enum.zip(events, Enum.with_index(terms)),
            do: assert(event == %{measurements: %{i => term}, metadata: %{term: term}})
      end

      @tag settings: [batch_timeout: 60_000]
      test "a strategy thins out batched events too" do
        :ok = Sampler.configure_event(@batch, {:rate_limited, 3})
        for n <- 1..10, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert %{pending: 3, sampled_out: 7, offered: 10} = counts(@batch)
      end

      @tag settings: [batch_size: 2, batch_timeout: 60_000]
      @tag capture_log: true
      test "a handler that raises loses no batch" do
        :telemetry.attach(:raises, @batched, fn _, _, _, _ -> raise "no" end, nil)
        listen([@batched])
        for n <- 1..4, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        SampledEvents.flush()
        assert %{emitted: 4, pending: 0} = counts(@batch)
        assert length(received(@batched)) == 2
      end

      @tag settings: [batch_size: 1, batch_timeout: 60_000]
      test "a handler that appends to its own event does not hold the processor" do
        on_exit(fn -> :telemetry.detach(:appends) end)

        :telemetry.attach(
          :appends,
          @batched,
          fn _, _, _, _ -> SampledEvents.emit_batched(@batch, %{}, %{}) end,
          nil
        )

        SampledEvents.emit_batched(@batch, %{}, %{})
        for _ <- 1..3, do: assert(:ok = SampledEvents.flush())
        :telemetry.detach(:appends)
      end

      @tag settings: [batch_size: 1_000, batch_timeout: 60_000]
      test "an orderly stop of the processor emits what is pending" do
        listen([@batched])
        for n <- 1..10, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        :ok = Supervisor.terminate_child(Foundation.TelemetrySupervisor, SampledEvents)
        assert_received {@batched, %{count: 10}, _}

        for n <- 11..15, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert :ok = SampledEvents.emit_event(@event, %{}, %{})
        assert %{pending: 5, emitted: 10} = counts(@batch)

        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        {:ok, _} = Supervisor.restart_child(Foundation.TelemetrySupervisor, SampledEvents)
        assert_receive {@batched, %{count: 5, min: %{n: 11}}, _}, 2_000
      end
    end

    describe "faults on the #{engine} engine:" do
      @describetag engine: engine

      @tag settings: [batch_size: 50, batch_timeout: 20]
      test "killing the processor under load loses and invents nothing" do
        listen([@batched])

        killer =
          Task.async(fn -> for _ <- 1..5, do: {Process.sleep(40), kill_server(SampledEvents)} end)

        together(8, fn i ->
          for n <- 1..2_500 do
            SampledEvents.emit_batched(@batch, %{n: n}, %{process: i})
            SampledEvents.emit_event(@event, %{}, %{n: rem(n, 50)}, window: 60_000)
            if rem(n, 100) == 0, do: assert(balanced?(SampledEvents.stats()))
          end
        end)

        Task.await(killer, 30_000)
        SampledEvents.flush()

        assert %{offered: 20_000, emitted: 20_000, pending: 0, dropped: 0} = counts(@batch)
        assert %{offered: 20_000, emitted: 50, suppressed: 19_950} = counts(@event)

        events = for {_, %{events: events}} <- received(@batched), event <- events, do: event

        distinct =
          for(%{measurements: %{n: n}, metadata: %{process: i}} <- events, uniq: true, do: {i, n})

        assert length(distinct) == 20_000
      end

      @tag settings: [batch_size: 2, batch_timeout: 60_000]
      test "a batch in the hands of a killed processor is emitted again and counted once" do
        test = self()

        :telemetry.attach(
          :holds,
          @batched,
          fn _, %{count: n}, _, _ ->
            send(test, {:emitting, self(), n})
            receive do: (:go_on -> :ok)
          end,
          nil
        )

        on_exit(fn -> :telemetry.detach(:holds) end)
        for n <- 1..2, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert_receive {:emitting, first, 2}
        assert %{pending: 2, emitted: 0} = counts(@batch)
        kill_server(SampledEvents)
        assert_receive {:emitting, second, 2} when second != first
        :telemetry.detach(:holds)
        send(second, :go_on)
        eventually(fn -> counts(@batch).pending == 0 end)
        assert %{offered: 2, emitted: 2} = counts(@batch)
      end
    end
  end

  describe "a module that uses it" do
    test "emits under its prefix" do
      listen([[:suite, :op], [:suite, :op, :start], [:suite, :op, :stop]])
      assert :ok = Events.emit_start(:op, %{id: 1})
      assert :ok = Events.emit_stop(:op, %{duration: 5}, %{id: 1})
      assert_received {[:suite, :op, :start], %{system_time: _}, %{id: 1}}
      assert_received {[:suite, :op, :stop], %{duration: 5}, %{id: 1}}
      assert :ok = Events.emit_event(:op, %{n: 1}, %{id: 1})
      assert :ok = Events.emit_event(:op, %{n: 1}, %{id: 1})
      assert :ok = Events.emit_if(false, :op, %{n: 2}, %{id: 2})
      assert :ok = Events.emit_if(1 < 2, :op, %{n: 3}, %{id: 3})
      assert received([:suite, :op]) == [{%{n: 1}, %{id: 1}}, {%{n: 3}, %{id: 3}}]
    end

    test "emits once in a window of its own" do
      listen([[:suite, :once]])
      for _ <- 1..3, do: assert(:ok = Events.emit_once_per(:once, 60_000, %{}, %{id: 1}))
      assert length(received([:suite, :once])) == 1
    end

    test "batches" do
      listen([[:batched, :suite, :many]])
      for n <- 1..3, do: assert(:ok = Events.batch_events(:many, %{n: n}, %{}))
      SampledEvents.flush()
      assert_received {[:batched, :suite, :many], %{count: 3}, _}
    end

    test "spans a block, whose value it gives" do
      require Events
      listen([[:suite, :work, :start], [:suite, :work, :stop], [:suite, :work, :exception]])
      assert Events.span(:work, %{id: 1}, do: 41 + 1) == 42
      assert_received {[:suite, :work, :start], %{system_time: _}, %{id: 1}}
      assert_received {[:suite, :work, :stop], %{duration: duration}, %{id: 1}}
      assert duration >= 0
      assert Events.own_span(:value) == :value
      assert catch_throw(Events.span(:work, %{id: 2}, do: throw(:out))) == :out

      assert_received {[:suite, :work, :exception], %{duration: _},
                       %{id: 2, kind: :throw, reason: :out, stacktrace: [_ | _]}}
    end

    test "needs a prefix of atoms" do
      for options <- [[], [prefix: "a"], [prefix: [:a], other: 1]] do
        assert_raise ArgumentError, fn -> Foundation.Telemetry.Events.Emitter.prefix!(options) end
      end
    end
  end

  describe "settings" do
    test "that are wrong stop the start, and say why" do
      for {settings, message} <- [
            {[windw: 1], ~r/did you mean :window/},
            {[window: -1], ~r/expected :window of .* to be/},
            {:no_list, ~r/keyword list/}
          ] do
        Application.put_env(:foundation, SampledEvents, settings)

        assert_raise ArgumentError, message, fn ->
          Foundation.Telemetry.Events.Settings.read!()
        end
      end
    end
  end

  defp emit_until(stop, window) do
    now = System.monotonic_time(:microsecond)
    SampledEvents.emit_event(@event, %{at: now}, %{}, window: window)
    if div(now, 1000) < stop, do: emit_until(stop, window)
  end
end
