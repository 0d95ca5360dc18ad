defmodule Foundation.Telemetry.Events.BatchProcessorTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Telemetry.{Sampler, SampledEvents}

  @event [:suite, :event]
  @batch [:suite, :batch]
  @batched [:batched | @batch]

  for engine <- [:ets, :native] do
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
      test "a partial batch is emitted after its timeout" do
        listen([@batched])
        SampledEvents.emit_batched(@batch, %{n: 1}, %{})
        assert %{pending: 1} = counts(@batch)
        assert_receive {@batched, %{count: 1}, _}
        SampledEvents.emit_batched(@batch, %{n: 2}, %{})
        assert_receive {@batched, %{count: 1, sum: %{n: 2}}, _}
      end

      @tag settings: [batch_size: 7, batch_timeout: 60_000]
      test "flush emits the pending events in batches of at most the batch size" do
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
      test "beyond the bound the newest event is dropped, counted over all names" do
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
      test "an event's own settings apply to its batches" do
        listen([@batched])
        :ok = SampledEvents.configure_event(@batch, batch_size: 2)
        for n <- 1..4, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert_receive {@batched, %{count: 2, sum: %{n: 3}}, _}
        assert_receive {@batched, %{count: 2, sum: %{n: 7}}, _}
        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        SampledEvents.emit_batched(@batch, %{n: 5}, %{})
        assert_receive {@batched, %{count: 1}, _}
      end

      @tag settings: [batch_size: 100, batch_timeout: 60_000]
      test "pending events follow a new batch size and a new timeout" do
        listen([@batched])
        for n <- 1..10, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        :ok = SampledEvents.configure_event(@batch, batch_size: 4)
        assert_receive {@batched, %{count: 4, sum: %{n: 10}}, _}
        assert_receive {@batched, %{count: 4, sum: %{n: 26}}, _}
        assert %{pending: 2, emitted: 8} = counts(@batch)
        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        assert_receive {@batched, %{count: 2, sum: %{n: 19}}, _}
      end

      @tag settings: [batch_timeout: 60_000]
      test "flush in a batch's handler emits the pending events after that batch" do
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
        assert_receive {:handled, 2}
      end

      @tag settings: [batch_timeout: 60_000]
      test "flush succeeds although the processor is killed" do
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
      test "the events of a process stay in order within and across batches" do
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
      test "a batch returns any term unchanged" do
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
      test "a sampling strategy applies to batched events" do
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
      test "a handler that appends to its own event does not block the processor" do
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
      test "an orderly stop of the processor emits the pending events" do
        listen([@batched])
        for n <- 1..10, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        :ok = Supervisor.terminate_child(Foundation.TelemetrySupervisor, SampledEvents)
        assert_received {@batched, %{count: 10}, _}

        for n <- 11..15, do: SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert :ok = SampledEvents.emit_event(@event, %{}, %{})
        assert %{pending: 5, emitted: 10} = counts(@batch)

        :ok = SampledEvents.configure_event(@batch, batch_timeout: 20)
        {:ok, _} = Supervisor.restart_child(Foundation.TelemetrySupervisor, SampledEvents)
        assert_receive {@batched, %{count: 5, min: %{n: 11}}, _}
      end
    end

    describe "faults on the #{engine} engine:" do
      @describetag engine: engine

      @tag settings: [batch_size: 50, batch_timeout: 20]
      test "kills of the processor under load lose no event and count none twice" do
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
      test "a batch that a killed processor was emitting is emitted again and counted once" do
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
end
