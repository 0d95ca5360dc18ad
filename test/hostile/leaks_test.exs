defmodule Foundation.Hostile.LeaksTest do
  @moduledoc """
  Creates and drops every resource that the library counts, in every possible way.
  """
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.{Bulkhead, Cache, CircuitBreaker, ConcurrentRegistry, Native, Registry}
  alias Foundation.Telemetry.{SampledEvents, Sampler, Span}

  @settings [{SampledEvents, window: 3_600_000, batch_timeout: 3_600_000}]

  test "dropped tables, entries and spans leave no allocation behind" do
    alone(@settings, fn ->
      before = counts()

      # The workers fill the tables, so this process keeps none of their terms alive.
      registries = for keys <- [:unique, :duplicate], do: start_registry(keys)
      names = Enum.map(registries, &elem(&1, 0))
      workers = start_workers(50)
      for worker <- workers, name <- names, do: run(worker, fn -> fill(name) end)
      tables = for worker <- workers, do: run(worker, &table/0)
      for worker <- workers, do: run(worker, &telemetry/0)
      remote = foreign_pid()
      for name <- names, do: Native.registry_register_for(name, remote, %{of: remote}, [remote])
      owners = start_instances()
      for worker <- workers, do: run(worker, &hold/0)

      full = counts()
      assert Map.keys(full) == Map.keys(before)
      # Each count has gone up. A resource that is not created here would not be checked.
      for {sort, count} <- full,
          # Event logs have a test of their own.
          sort not in [:retired, :event_logs],
          do: assert({sort, count > before[sort]} == {sort, true})

      # Some resources are dropped one by one, some with their process, and some with their table.
      Enum.each(Enum.take(workers, 25), &kill/1)
      Native.registry_remote_down(hd(names), remote)
      for {_name, owner} <- registries, do: GenServer.stop(owner)
      Enum.each(owners, &GenServer.stop/1)
      Enum.each(Enum.drop(workers, 25), &kill/1)
      assert_raise ArgumentError, fn -> ConcurrentRegistry.size(hd(tables)) end
      Supervisor.terminate_child(Foundation.Supervisor, Foundation.TelemetrySupervisor)

      eventually(fn ->
        :erlang.garbage_collect()
        assert counts() == %{before | tables: length(tables)}
      end)

      # Keeps the tables referenced until here.
      assert length(tables) == 50
    end)
  end

  defp start_registry(keys) do
    name = unique_name("leaks")
    {:ok, owner} = Registry.start_link(name: name, keys: keys, engine: :native)
    :ok = Registry.put_meta(name, {:meta, keys}, %{ref: make_ref()})
    {name, owner}
  end

  defp start_instances do
    {:ok, bulkhead} = Bulkhead.start_link(name: :leaks_bulkhead, max: 1_000, engine: :native)
    {:ok, breaker} = CircuitBreaker.start_link(name: :leaks_breaker, engine: :native)
    {:ok, cache} = Cache.start_link(name: :leaks_cache, max_bytes: 20_000, engine: :native)
    [bulkhead, breaker, cache]
  end

  defp hold do
    for key <- [:leaks_bulkhead, {:leaks_bulkhead, %{of: self()}}], do: Bulkhead.acquire(key)
    for key <- [:leaks_breaker, {:leaks_breaker, make_ref()}], do: CircuitBreaker.ask(key)
    for n <- 1..100, do: Cache.put(:leaks_cache, {%{n => n}, make_ref()}, {n, make_ref()})
    # A load that never ends, and one that stores.
    {:load, _lease} = Native.cache_begin(:leaks_cache, {%{of: self()}, make_ref()}, nil)
    {:ok, _ref} = Cache.fetch(:leaks_cache, %{of: self()}, fn -> {:ok, make_ref()} end)
    if :rand.uniform(10) == 1, do: Cache.clear(:leaks_cache)
    :ok
  end

  # More entries than a death removes at once, with keys and values of every stored form.
  defp fill(name) do
    for n <- 1..300,
        key <- [n, "long #{String.duplicate("key", 9)} #{n}", %{n => n}, [n | make_ref()]] do
      long = :binary.copy("long", 30)
      {:ok, _owner} = Registry.register(name, {key, self()}, [key, long])
      if rem(n, 3) == 0, do: :ok = Registry.unregister(name, {key, self()})
    end

    :ok
  end

  defp table do
    table = ConcurrentRegistry.new(engine: :native)
    for n <- 1..100, do: ConcurrentRegistry.put(table, %{n => n}, make_ref())
    for n <- 1..50, do: ConcurrentRegistry.update(table, %{n => n}, nil, &{&1})
    for n <- 1..25, do: ConcurrentRegistry.delete(table, %{n => n})
    table
  end

  defp telemetry do
    SampledEvents.emit_event([:leaks, :event], %{}, %{ref: make_ref()})
    SampledEvents.emit_batched([:leaks, :event], %{}, %{ref: make_ref()})
    Sampler.configure_event({:leaks, self()}, {:reservoir, 10})
    Span.start_span(:left, %{ref: make_ref()})
    Span.record_event(:event, %{ref: make_ref()})
    Span.add_attributes(%{more: make_ref()})
    Span.start_span(:ended, %{ref: make_ref()})
    Span.end_span()
  end
end
