defmodule Soak.Events do
  @moduledoc false
  # Deduplicated and batched events. Each is one of its own, so that what became of it is known:
  # a raced one is emitted by exactly one of those who raced, a batched one at least once, and the
  # counts add up to the calls.

  @behaviour Soak.Area

  alias Foundation.Telemetry.SampledEvents
  alias Foundation.Telemetry.Tables
  alias Foundation.TelemetrySupervisor
  alias Soak.{Epoch, Faults, Record}

  @raced [:soak, :raced]
  @batched [:soak, :batched]
  # Longer than from one audit to the next.
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

  # In the ETS engine what is in the tables ends with them.
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

  # All racers emit each event of a round, and again in the rest of the round.
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
        # At the end of an epoch some may have been decided in the next.
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

  # From here on the counts are compared.
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
