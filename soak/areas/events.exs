defmodule Soak.Events do
  @moduledoc false
  # Deduplicated and batched events. Each event has an id of its own, so its fate is known. A raced
  # event is emitted by exactly one of the racing processes, and a batched event at least once. The
  # counts add up to the number of calls.

  @behaviour Soak.Area

  alias Foundation.Telemetry.SampledEvents
  alias Foundation.Telemetry.Tables
  alias Foundation.TelemetrySupervisor
  alias Soak.{Epoch, Faults, Record}

  @raced [:soak, :raced]
  @batched [:soak, :batched]
  # Longer than the time between two audits.
  @window_ms 20_000
  @round_ms 5
  @racers 4
  @batchers 3

  @impl true
  def name, do: "events"

  @impl true
  def invariants do
    [
      windows: "windows without exactly one winner",
      batches: "batched events lost",
      counts: "counts that do not add up to the calls"
    ]
  end

  @impl true
  def open(_options) do
    Epoch.open([:telemetry])
    :ets.new(__MODULE__, [:named_table, :public, write_concurrency: true])
    :ets.insert(__MODULE__, audit: 0)
    :ok = :telemetry.attach({__MODULE__, 1}, @raced, &__MODULE__.emitted/4, nil)
    :ok = :telemetry.attach({__MODULE__, 2}, [:batched | @batched], &__MODULE__.batch/4, nil)
    settle()
  end

  @doc false
  def emitted(_event, _measurements, %{id: id}, _config), do: seen({:raced, id})

  @doc false
  def batch(_event, _measurements, %{events: events}, _config),
    do: for(%{metadata: %{id: id}} <- events, do: seen({:batched, id}))

  defp seen(id), do: :ets.update_counter(__MODULE__, id, 1, {id, 0})

  @impl true
  def crew do
    [
      %{count: @racers, init: & &1, step: &race/1},
      %{count: @batchers, init: &{&1, 0}, step: &append/1}
    ]
  end

  @impl true
  def faults(engine), do: server() ++ if(engine == :native, do: tables(), else: [])

  defp server do
    [
      {"SampledEvents killed", 3, fn -> Faults.kill(SampledEvents) end},
      {"SampledEvents stopped in order", 2,
       fn -> Faults.restart(TelemetrySupervisor, SampledEvents, []) end},
      {"TelemetrySupervisor stopped in order", 1,
       fn -> Faults.restart(Foundation.Supervisor, TelemetrySupervisor, [:telemetry]) end}
    ]
  end

  # In the ETS engine the events end with the tables.
  defp tables do
    [
      {"owner of the telemetry tables killed", 2, fn -> Faults.kill(Tables) end},
      {"TelemetrySupervisor killed", 2, &kill_supervisor/0}
    ]
  end

  defp kill_supervisor do
    last = Faults.await(SampledEvents)
    Faults.kill(TelemetrySupervisor)
    Faults.await(SampledEvents, last)
  end

  ## Calls

  # Every racer emits each event of a round, and repeats it until the round ends.
  defp race(index) do
    [audit: audit] = :ets.lookup(__MODULE__, :audit)
    round = div(System.monotonic_time(:millisecond), @round_ms)
    id = {Epoch.now(:telemetry), audit, round}
    emit = &SampledEvents.emit_event(@raced, %{count: 1}, %{id: &1}, window: @window_ms)
    for n <- 1..10, do: :ok = emit.({id, n})
    Record.add({:calls, @raced}, 10)
    if :rand.uniform(10) == 1, do: Process.sleep(1)
    {10, index}
  end

  defp append({index, n}) do
    [audit: audit] = :ets.lookup(__MODULE__, :audit)

    for m <- n..(n + 9) do
      :ok = SampledEvents.emit_batched(@batched, %{value: m}, %{id: {audit, index, m}})
    end

    Record.add({:calls, @batched}, 10)
    Record.add({:appended, audit}, 10)
    Process.sleep(1)
    {10, {index, n + 10}}
  end

  ## Audit

  @impl true
  def audit do
    Faults.await(SampledEvents)
    :ok = SampledEvents.flush()
    [audit: audit] = :ets.lookup(__MODULE__, :audit)

    winners()
    appended(audit)
    [epoch: epoch, base: base] = :ets.lookup(__MODULE__, :epoch) ++ :ets.lookup(__MODULE__, :base)
    if epoch == Epoch.now(:telemetry), do: counts(base)

    :ets.delete_all_objects(__MODULE__)
    :ets.insert(__MODULE__, audit: audit + 1)
    settle()
  end

  defp winners do
    now = Epoch.now(:telemetry)

    for [id, emitted] <- :ets.match(__MODULE__, {{:raced, :"$1"}, :"$2"}),
        {{epoch, _audit, _round}, _n} = id,
        # When an epoch ends, some events may be decided in the next one.
        epoch == now do
      Record.check!(:windows, emitted == 1, fn -> {id, :emitted, emitted, :times} end)
    end
  end

  defp appended(audit) do
    expected = Record.get({:appended, audit})
    found = :ets.select_count(__MODULE__, [{{{:batched, {audit, :_, :_}}, :_}, [], [true]}])
    Record.check!(:batches, found == expected, fn -> {found, :of, expected} end)
  end

  defp counts(base) do
    for event <- [@raced, @batched] do
      stats = SampledEvents.stats(event)
      calls = Record.get({:calls, event}) - base[event].calls
      offered = stats.offered - base[event].offered
      Record.check!(:counts, offered == calls, fn -> {event, offered, :of, calls, stats} end)
      sum = stats.emitted + stats.suppressed + stats.sampled_out + stats.dropped + stats.pending
      Record.check!(:counts, stats.offered == sum, fn -> {event, stats} end)
      Record.check!(:batches, stats.dropped == 0 and stats.pending == 0, fn -> {event, stats} end)
    end
  end

  # The counts are compared from here on.
  defp settle do
    base =
      for event <- [@raced, @batched], into: %{} do
        {event,
         %{calls: Record.get({:calls, event}), offered: SampledEvents.stats(event).offered}}
      end

    :ok = SampledEvents.configure_event(@batched, batch_size: 100, batch_timeout: 20)
    :ets.insert(__MODULE__, epoch: Epoch.now(:telemetry), base: base)
  end
end
