defmodule Bench.SchedulerCache do
  @moduledoc false
  # The operations of caches, for the probe of the `scheduler` row.

  alias Foundation.{Cache, Native}

  @cache Bench.Cache
  @hour 3_600_000

  @doc """
  Measures a cache at its bound whose entries have all been read, so that the hand passes the most.
  `measure` is given a name and a function.
  """
  def cache(size, measure) do
    max_bytes = 100 * size
    {:ok, owner} = Cache.start_link(name: @cache, max_bytes: max_bytes, engine: :native)
    some = Enum.take_every(1..size, max(1, div(size, 100_000)))
    read = fn -> for n <- 1..(2 * size), do: Cache.get(@cache, n) end
    large = Enum.to_list(1..div(max_bytes, 300))

    results = [
      measure.("cache_put", fn call -> each(1..size, call, &Cache.put(@cache, &1, &1)) end),
      measure.("cache_get", fn call -> each(some, call, &Cache.get(@cache, &1)) end),
      measure.("cache_evict", fn call ->
        read.()
        each(1..size, call, &Cache.put(@cache, -&1, &1, ttl: @hour))
      end),
      measure.("cache_evict_many", fn call ->
        read.()
        each(1..3, call, &Cache.put(@cache, {:large, &1}, large))
      end),
      measure.("cache_expire_many", fn call ->
        each(1..size, call, &Cache.put(@cache, &1, &1, ttl: 1))
        each(some, call, &Cache.put(@cache, -&1, &1))
      end),
      measure.("cache_fetch", fn call ->
        each(some, call, &Cache.fetch(@cache, {:loaded, &1}, fn -> {:ok, [&1]} end))
      end),
      measure.("cache_herd", fn call -> each(1..3, call, &herd({:herd, &1}, 10_000)) end),
      measure.("cache_delete", fn call -> each(some, call, &Cache.delete(@cache, &1)) end),
      measure.("cache_stream", fn call -> call.(fn -> Stream.run(Cache.stream(@cache)) end) end),
      measure.("cache_stats", fn call -> each(1..100, call, fn _n -> Cache.stats(@cache) end) end),
      measure.("cache_clear", fn call -> call.(fn -> Cache.clear(@cache) end) end),
      measure.("cache_put_after_clear", fn call ->
        each(some, call, &Cache.put(@cache, &1, &1))
      end)
    ]

    GenServer.stop(owner)
    results
  end

  # Many callers wait for one load; the first loader is killed, and the next one finishes.
  defp herd(key, count) do
    caller = self()

    loader = fn ->
      send(caller, {:loading, key})
      Process.sleep(:infinity)
    end

    first = spawn(fn -> Cache.fetch(@cache, key, loader) end)
    receive do: ({:loading, ^key} -> :ok)
    {:wait, id} = Native.cache_begin(@cache, key, nil)
    before = Cache.stats(@cache).misses

    for _caller <- 1..count do
      spawn_link(fn ->
        {:ok, _list} = Cache.fetch(@cache, key, fn -> raise "this process loads" end)
        send(caller, {:fetched, key})
      end)
    end

    Bench.spin_until(fn -> Cache.stats(@cache).misses == before + count end)
    Process.exit(first, :kill)
    lease = receive(do: ({:foundation_cache, ^id, {:load, lease}} -> lease))
    outcome = {:ok, Enum.to_list(1..100), :infinity, 0}
    :stored = Native.cache_finish(@cache, key, lease, outcome)
    for _caller <- 1..count, do: receive(do: ({:fetched, ^key} -> :ok))
  end

  defp each(list, call, fun),
    do: Enum.each(list, fn element -> call.(fn -> fun.(element) end) end)
end
