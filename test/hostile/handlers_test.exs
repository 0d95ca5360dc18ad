defmodule Foundation.Hostile.HandlersTest do
  @moduledoc """
  Telemetry handlers that misbehave. `:telemetry` detaches a handler that raises, throws or exits. A
  handler that never returns blocks only the process that it runs in. Callers go on, and pending
  work is bounded and counted. When the blocked process is killed, its successor reports the rest.

  Not async: events and processes belong to the application.
  """
  use Foundation.TelemetryCase, async: false

  require Foundation.Telemetry.Span, as: Span

  alias Foundation.{AgentRegistry, Registry}
  alias Foundation.Telemetry.SampledEvents

  import Foundation.Case

  @moduletag :capture_log

  @batch [:hostile, :batch]
  @batched [:batched | @batch]
  @abandoned [:foundation, :span, :abandoned]
  @cleanup [:foundation, :registry, :cleanup]

  for engine <- [:native, :ets], how <- [:raise, :throw, :exit] do
    describe "a handler that does #{how}, on the #{engine} engine," do
      @describetag engine: engine
      @describetag settings: [batch_size: 10, batch_timeout: 60_000]

      test "loses no event, no batch and no span" do
        misbehave(unquote(how), [[:hostile, :event], @batched, @abandoned, @cleanup])
        listen([[:hostile, :event], @batched, @abandoned])

        assert SampledEvents.emit_event([:hostile, :event], %{}, %{}) == :ok
        assert_received {[:hostile, :event], _, _}

        for n <- 1..100, do: :ok = SampledEvents.emit_batched(@batch, %{n: n}, %{})
        :ok = SampledEvents.flush(@batch)
        batches = received(@batched)
        assert Enum.sum(for {%{count: count}, _} <- batches, do: count) == 100
        assert %{emitted: 100, pending: 0, dropped: 0} = SampledEvents.stats(@batch)

        pid = in_span()
        kill(pid)
        assert_receive {@abandoned, _, %{name: ^pid}}
        assert_agents_are_cleaned_up()
        # Each handler has been called, and detached.
        eventually(fn -> for(%{config: {unquote(how), _}} <- all_handlers(), do: 1) == [] end)
      end
    end
  end

  for engine <- [:native, :ets] do
    describe "a handler that never returns, on the #{engine} engine," do
      @describetag engine: engine
      @describetag settings: [batch_size: 10, batch_timeout: 60_000, max_pending: 1_000]

      test "for batches blocks no caller, and pending events are bounded and counted" do
        stop = misbehave(:loop, [@batched])
        for n <- 1..5_000, do: :ok = SampledEvents.emit_batched(@batch, %{n: n}, %{})
        assert_receive :looping

        assert %{offered: 5_000, emitted: 0, pending: 1_000, dropped: 4_000} =
                 SampledEvents.stats(@batch)

        assert SampledEvents.emit_event([:hostile, :meanwhile], %{}, %{}) == :ok
        assert Span.with_span(:meanwhile, %{}, do: :done) == :done
        assert_agents_are_cleaned_up()

        stop.()
        listen([@batched])
        kill_server(SampledEvents)
        :ok = SampledEvents.flush(@batch)
        counts = for {%{count: count}, _} <- received(@batched), do: count
        assert Enum.sum(counts) == 1_000

        assert %{offered: 5_000, emitted: 1_000, pending: 0, dropped: 4_000} =
                 SampledEvents.stats(@batch)
      end

      test "for abandoned spans blocks no span, and no span is lost" do
        stop = misbehave(:loop, [@abandoned])
        first = in_span()
        kill(first)
        assert_receive :looping
        others = for _n <- 1..50, do: in_span()
        Enum.each(others, &kill/1)
        assert Span.with_span(:meanwhile, %{}, do: Span.current_span().name) == :meanwhile
        assert SampledEvents.emit_event([:hostile, :meanwhile], %{}, %{}) == :ok
        assert_agents_are_cleaned_up()

        stop.()
        listen([@abandoned])
        kill_server(Span)
        for pid <- [first | others], do: assert_receive({@abandoned, _, %{name: ^pid}})
      end

      test "for an event blocks its caller only" do
        stop = misbehave(:loop, [[:hostile, :event]])
        event = fn key -> SampledEvents.emit_event([:hostile, :event], %{}, %{key: key}) end
        caller = spawn(fn -> event.(1) end)
        assert_receive :looping
        # The window is open, so this is a repeat.
        assert event.(1) == :ok
        assert %{emitted: 1, suppressed: 1} = SampledEvents.stats([:hostile, :event])
        stop.()
        kill(caller)
      end

      test "for cleaned-up agents delays no clean-up" do
        stop = misbehave(:loop, [@cleanup])
        assert_agents_are_cleaned_up()
        assert_receive :looping
        assert_agents_are_cleaned_up()
        stop.()
        kill_server(Foundation.Registry.Cleanup)
      end
    end
  end

  # All entries of a hundred agents that die are removed, even while the reporter is blocked.
  defp assert_agents_are_cleaned_up do
    table = AgentRegistry.table()
    before = Registry.count(table)
    agents = start_workers(100)
    for pid <- agents, do: :ok = AgentRegistry.register_agent({:hostile, pid}, pid)
    Enum.each(agents, &kill/1)

    for pid <- agents,
        do: assert(AgentRegistry.get_agent({:hostile, pid}) == {:error, :not_found})

    eventually(fn -> Registry.count(table) <= before end)
  end

  defp all_handlers, do: :telemetry.list_handlers([])

  # A process with a span whose name is its pid.
  defp in_span do
    worker = start_worker()
    run(worker, fn -> Span.start_span(worker) end)
    worker
  end

  # Attaches a handler. Returns a function that detaches it.
  defp misbehave(how, events) do
    # One handler per event, because telemetry detaches a failed handler from all of its events.
    ids =
      for event <- events do
        id = {__MODULE__, make_ref()}
        :ok = :telemetry.attach(id, event, &__MODULE__.handle/4, {how, self()})
        id
      end

    detach = fn -> Enum.each(ids, &:telemetry.detach/1) end
    on_exit(detach)
    detach
  end

  @doc false
  def handle(_event, _measurements, _metadata, {:raise, _test}), do: raise("of bad manners")
  def handle(_event, _measurements, _metadata, {:throw, _test}), do: throw(:of_bad_manners)
  def handle(_event, _measurements, _metadata, {:exit, _test}), do: exit(:of_bad_manners)

  def handle(_event, _measurements, _metadata, {:loop, test}) do
    send(test, :looping)
    loop()
  end

  # Sleeps, because a busy loop would take a processor from the other tests.
  defp loop do
    receive do
    after
      10 -> loop()
    end
  end
end
