defmodule Foundation.Telemetry.BoundsTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false
  use Foundation.Alone

  require Foundation.Telemetry.Span, as: Span

  alias Foundation.Telemetry.SampledEvents

  @moduletag timeout: 120_000

  @tag engine: :native
  @tag settings: [max_windows: 10_000, window: 3_600_000]
  test "a million dedup keys grow the VM by less than 16 MB" do
    event = [:suite, :many]
    SampledEvents.emit_event(event, %{}, %{}, dedup_key: 0)
    before = memory()

    for key <- 1..1_000_000,
        do: SampledEvents.emit_event(event, %{}, %{}, dedup_key: {:user, key})

    assert memory() - before < 16 * 1024 * 1024
    assert %{windows: 10_000, evicted: 990_001, emitted: 1_000_001} = SampledEvents.stats()
    SampledEvents.emit_event(event, %{}, %{}, dedup_key: {:user, 1_000_000})
    assert %{suppressed: 1} = SampledEvents.stats()
  end

  @tag engine: :native
  @tag settings: [max_windows: 1_000, window: 3_600_000]
  test "large dedup keys are kept as digests" do
    big = String.duplicate("x", 50_000)
    before = memory()

    for key <- 1..1_000,
        do: SampledEvents.emit_event([:suite, :big], %{}, %{}, dedup_key: [key, big])

    assert memory() - before < 2 * 1024 * 1024

    for key <- 1..1_000,
        do: SampledEvents.emit_event([:suite, :big], %{}, %{}, dedup_key: [key, big])

    assert %{emitted: 1_000, suppressed: 1_000} = SampledEvents.stats()
  end

  for engine <- [:ets, :native] do
    @tag engine: engine
    @tag settings: [batch_size: 1_000, batch_timeout: 60_000]
    test "an orderly stop of the tree emits what is pending, on the #{engine} engine" do
      listen([[:batched, :suite, :last]])
      for n <- 1..2_500, do: SampledEvents.emit_batched([:suite, :last], %{n: n}, %{})
      stop_supervised!(Foundation.TelemetrySupervisor)
      sizes = for {%{count: count}, _} <- received([:batched, :suite, :last]), do: count
      assert Enum.sum(sizes) == 2_500
    end
  end

  for engine <- [:ets, :native] do
    @tag engine: engine
    @tag settings: [batch_size: 100, batch_timeout: 20, max_pending: 1_000_000]
    test "a stop of the tree during emits loses no batched event, on the #{engine} engine" do
      event = [:suite, :stopping]
      counts = :counters.new(2, [])
      on_exit(fn -> :telemetry.detach(:stopping) end)
      :telemetry.attach(:stopping, [:batched | event], &__MODULE__.count/4, counts)

      emitters =
        for _ <- 1..4 do
          Task.async(fn ->
            for n <- 1..20_000 do
              SampledEvents.emit_batched(event, %{n: n}, %{})
              :counters.add(counts, 1, 1)
            end
          end)
        end

      eventually(fn -> :counters.get(counts, 1) > 5_000 end)
      stop_supervised!(Foundation.TelemetrySupervisor)
      Task.await_many(emitters, 60_000)
      assert :counters.get(counts, 2) == 80_000
    end
  end

  def count(_name, %{count: n}, _metadata, counts), do: :counters.add(counts, 2, n)

  @tag engine: :native
  test "ended and abandoned spans leave no memory behind" do
    alone(fn ->
      before = counts()
      big = Enum.to_list(1..10_000)

      together(8, fn i ->
        for n <- 1..50,
            do: Span.with_span({i, n}, %{big: big}, do: Span.record_event(:e, %{big: big}))

        Span.start_span(:abandoned, %{big: big})
      end)

      eventually(fn -> assert counts() == before end)
    end)
  end

  # The memory after all garbage is collected, that of this process too.
  defp memory do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    :erlang.memory(:total)
  end
end
