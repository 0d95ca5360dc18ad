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

      test "different metadata are different keys, and 1 is not 1.0" do
        listen([@event])

        for id <- [1, 1.0, "1", :"1", [1], {1}, %{}, nil],
            do: SampledEvents.emit_event(@event, %{}, %{id: id})

        assert length(received(@event)) == 8
      end

      @tag settings: [window: 60_000]
      test "a key of any type of term opens its own window once" do
        # For these two values there is no key, and the metadata is used instead.
        keys = for {_name, key} <- Foundation.Terms.all(), key not in [nil, false], do: key
        for key <- keys ++ keys, do: SampledEvents.emit_event(@event, %{}, %{}, dedup_key: key)
        assert %{emitted: n, suppressed: n} = counts(@event)
        assert n == length(keys)
      end

      @tag settings: [window: 60_000]
      test "every small map is a key of its own" do
        values = [0, 1, -1, 255, 256, :a, :b, [], nil, self(), "", "a", "b", <<0>>, <<0, 0>>]
        values = values ++ [1.0, {1}, "123456", "1234567", 2 ** 31, 2 ** 59, 2 ** 70]

        maps =
          [%{}, %{a: 1, b: 2, c: 3}, %{a: 1, b: 2, c: 3, d: 4}] ++
            for(a <- values, key <- [:a, :b, "a"], do: %{key => a}) ++
            for a <- values, b <- values, key <- [:a, :c], do: %{key => a, b: b}

        for map <- maps ++ maps, do: SampledEvents.emit_event(@event, %{}, map)
        assert %{emitted: n, suppressed: n} = counts(@event)
        assert n == length(maps)
      end

      test "options in another order or notation have the same effect" do
        listen([@event])

        for options <- [
              [dedup_key: 1, window: 60_000],
              [window: 60_000, dedup_key: 1],
              [dedup_key: 1],
              [window: nil, dedup_key: 1],
              [dedup_key: 1, dedup_key: 2]
            ],
            do: SampledEvents.emit_event(@event, %{}, %{dedup_key: 2}, options)

        assert length(received(@event)) == 1
        SampledEvents.emit_event(@event, %{}, %{dedup_key: 2}, dedup_key: nil, window: 60_000)
        SampledEvents.emit_event(@event, %{}, %{dedup_key: 2}, window: 60_000)
        assert length(received(@event)) == 1
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

      test "a dedup key in the options has priority over one in the metadata" do
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

      test "repeats do not extend a window" do
        listen([@event])
        started = System.monotonic_time(:millisecond)
        now = fn -> System.monotonic_time(:millisecond) end

        emit = fn ->
          before = now.()
          SampledEvents.emit_event(@event, %{}, %{}, window: 100)
          if received(@event) != [], do: {before, now.()}
        end

        opened =
          Stream.repeatedly(emit)
          |> Stream.take_while(fn _ -> now.() - started <= 350 end)
          |> Enum.reject(&is_nil/1)

        # A window that repeats extend would open once. The machine decides how often this one
        # opens. Each event was decided between its two readings of the clock.
        assert length(opened) >= 2

        for [{before, _}, {_, later}] <- Enum.chunk_every(opened, 2, 1, :discard),
            do: assert(later - before >= 99)
      end

      test "a window of :infinity never closes, and a time out of range is refused" do
        :ok = SampledEvents.configure_event(@event, window: :infinity)
        for _ <- 1..3, do: SampledEvents.emit_event(@event, %{}, %{id: 1})
        for _ <- 1..3, do: SampledEvents.emit_event(@event, %{}, %{id: 2}, window: :infinity)
        assert %{emitted: 2, suppressed: 4} = SampledEvents.stats(@event)

        for window <- [-1, 2 ** 32, 10 ** 13, 2 ** 64, 1.0, false] do
          range = "an integer from 0 to 4294967295 or :infinity, got: #{inspect(window)}"

          assert_raise ArgumentError, "expected :window of emit_event/4 to be " <> range, fn ->
            SampledEvents.emit_event(@event, %{}, %{}, window: window)
          end

          assert_raise ArgumentError, ~r/^expected :window of .*configure_event\/2 to be /, fn ->
            SampledEvents.configure_event(@event, window: window)
          end
        end
      end

      test "a batch with a timeout of :infinity waits until it is full" do
        :ok = SampledEvents.configure_event(@event, batch_timeout: :infinity, batch_size: 2)
        SampledEvents.emit_batched(@event, %{}, %{id: 1})
        assert %{pending: 1} = SampledEvents.stats(@event)
        SampledEvents.emit_batched(@event, %{}, %{id: 2})
        eventually(fn -> match?(%{pending: 0, emitted: 2}, SampledEvents.stats(@event)) end)
      end

      test "false is a valid dedup key, and nil means no key" do
        for {metadata, options} <- [
              {%{}, [dedup_key: false]},
              {%{}, [dedup_key: false, window: 60_000]}
            ] do
          SampledEvents.emit_event(@event, %{}, Map.put(metadata, :id, 1), options)
          SampledEvents.emit_event(@event, %{}, Map.put(metadata, :id, 2), options)
        end

        SampledEvents.emit_event(@event, %{}, %{id: 3, dedup_key: false})
        SampledEvents.emit_event(@event, %{}, %{id: 4, dedup_key: false}, window: 60_000)
        assert %{emitted: 1, suppressed: 5} = SampledEvents.stats(@event)
        SampledEvents.emit_event(@event, %{}, %{id: 5}, dedup_key: nil)
        SampledEvents.emit_event(@event, %{}, %{id: 6, dedup_key: nil}, window: 60_000)
        assert %{emitted: 3} = SampledEvents.stats(@event)
      end

      @tag settings: [max_windows: 4, window: 60_000]
      test "an event's counts cover only its own windows" do
        for id <- 1..3, do: SampledEvents.emit_event(@event, %{}, %{id: id})
        for id <- 1..3, do: SampledEvents.emit_event([:_], %{}, %{id: id})
        assert %{windows: 1, evicted: 2} = SampledEvents.stats(@event)
        assert %{windows: 3, evicted: 0} = SampledEvents.stats([:_])
        assert %{windows: 4, evicted: 2} = SampledEvents.stats()
        assert %{windows: 0, evicted: 0, offered: 0} = SampledEvents.stats([:suite, :unknown])
      end

      test "an event's own windows are closed after they expire" do
        for id <- 1..10, do: SampledEvents.emit_event(@event, %{}, %{id: id}, window: 1)
        other = [:suite, :other]
        for id <- 1..2, do: SampledEvents.emit_event(other, %{}, %{id: id}, window: 60_000)
        eventually(fn -> SampledEvents.stats(@event).windows == 0 end)
        assert %{windows: 2} = SampledEvents.stats(other)
      end

      test "an event's own window is its default, and a window of 0 suppresses nothing" do
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
      test "beyond the bound the oldest window is closed and counted" do
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

      test "expired windows are closed without a call" do
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

      test "an option of emit_event/4 that is unknown raises, and the event is not offered" do
        for {options, message} <- [
              {[windw: 1], ~r/^expected a key of the options of emit_event\/4 .* mean :window\?/},
              {[dedup_key: 1, sample: 2], ~r/ got: :sample/},
              {[1], ~r/^expected the options of emit_event\/4 to be a keyword list, got: \[1\]/}
            ] do
          assert_raise ArgumentError, message, fn ->
            SampledEvents.emit_event(@event, %{}, %{}, options)
          end
        end

        assert SampledEvents.stats(@event).offered == 0
      end

      test "an event name that is not a list of atoms raises, and so does an invalid window" do
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

        for window <- [-1, 1.5, :ever, "1"] do
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

      test "repeats are suppressed before the strategy and use none of its rate" do
        :ok = Sampler.configure_event(@event, {:rate_limited, 2})
        for _ <- 1..10, do: SampledEvents.emit_event(@event, %{}, %{key: 1})
        for key <- 2..4, do: SampledEvents.emit_event(@event, %{}, %{key: key})
        assert %{emitted: 2, suppressed: 9, sampled_out: 2} = counts(@event)
        assert %{offered: 4, sampled: 2} = Sampler.get_stats(@event)
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

    test "emits batches" do
      listen([[:batched, :suite, :many]])
      for n <- 1..3, do: assert(:ok = Events.batch_events(:many, %{n: n}, %{}))
      SampledEvents.flush()
      assert_received {[:batched, :suite, :many], %{count: 3}, _}
    end

    test "span/3 returns the value of its block, and its events share a span context" do
      require Events
      listen([[:suite, :work, :start], [:suite, :work, :stop], [:suite, :work, :exception]])
      assert Events.span(:work, %{id: 1}, do: 41 + 1) == 42

      assert_received {[:suite, :work, :start], %{system_time: _, monotonic_time: _},
                       %{id: 1, telemetry_span_context: context}}

      assert_received {[:suite, :work, :stop], %{duration: duration, monotonic_time: _},
                       %{id: 1, telemetry_span_context: ^context}}

      assert duration >= 0
      assert Events.own_span(:value) == :value
      assert catch_throw(Events.span(:work, %{id: 2}, do: throw(:out))) == :out

      assert_received {[:suite, :work, :exception], %{duration: _},
                       %{id: 2, kind: :throw, reason: :out, stacktrace: [_ | _]}}
    end

    test "requires a prefix of atoms" do
      for options <- [[], [prefix: "a"], [prefix: [:a], other: 1]] do
        assert_raise ArgumentError, fn -> Foundation.Telemetry.Events.Emitter.prefix!(options) end
      end
    end
  end

  describe "settings" do
    test "that are invalid fail the start with the reason" do
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
