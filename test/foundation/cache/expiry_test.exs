defmodule Foundation.Cache.ExpiryTest do
  use Foundation.Conformance.Cache

  defp gone(cache, key), do: eventually(fn -> Cache.fetch(cache, key) == :error end)

  conform "a value is not read after its ttl, and counts as expired once", %{engine: engine} do
    cache = cache!(engine, ttl: 1)
    Cache.put(cache, :key, 1)
    gone(cache, :key)
    gone(cache, :key)
    assert %{expired: 1, evicted: 0, entries: 0, bytes: 0} = Cache.stats(cache)
    assert Cache.fetch(cache, :key, fn -> {:ok, 2} end, ttl: 60_000) == {:ok, 2}
    assert Cache.get(cache, :key) == 2
  end

  conform "the ttl of a call or of a loader goes before that of the cache", %{engine: engine} do
    cache = cache!(engine, ttl: 60_000)
    Cache.put(cache, :put, 1, ttl: 1)
    Cache.put(cache, :kept, 1)
    Cache.fetch(cache, :fetch, fn -> {:ok, 1} end, ttl: 1)
    Cache.fetch(cache, :loader, fn -> {:ok, 1, ttl: 1} end)
    Cache.fetch(cache, :both, fn -> {:ok, 1, ttl: :infinity} end, ttl: 1)
    for key <- [:put, :fetch, :loader], do: gone(cache, key)
    assert Cache.get(cache, :kept) == 1
    assert Cache.get(cache, :both) == 1
  end

  conform "a value with a ttl of 0 is not kept, and removes what was there", %{engine: engine} do
    cache = cache!(engine)
    Cache.put(cache, :put, 1)
    assert Cache.put(cache, :put, 2, ttl: 0) == :ok
    assert Cache.fetch(cache, :put) == :error
    assert Cache.fetch(cache, :loaded, fn -> {:ok, 1, ttl: 0} end) == {:ok, 1}
    assert Cache.fetch(cache, :loaded) == :error
    assert %{entries: 0, bytes: 0, expired: 0, rejected: 0} = Cache.stats(cache)
  end

  conform "expired entries that nobody reads make way for writes", %{engine: engine} do
    cache = cache!(engine)
    for n <- 1..200, do: Cache.put(cache, {:old, n}, n, ttl: 1)
    await_expired(cache, {:old, 1})

    eventually(fn ->
      for n <- 1..50, do: Cache.put(cache, {:new, n}, n)
      Cache.size(cache) == 50
    end)

    assert %{expired: 200, evicted: 0} = Cache.stats(cache)
  end

  defp await_expired(cache, key), do: gone(cache, key)

  conform "an error is kept for its negative_ttl", %{engine: engine} do
    cache = cache!(engine, negative_ttl: 60_000)
    assert Cache.fetch(cache, :key, fn -> {:error, :down} end) == {:error, :down}
    assert Cache.fetch(cache, :key, fn -> raise "not run" end) == {:error, :down}
    assert Cache.get(cache, :key, :default) == :default
    assert Cache.fetch(cache, :key) == :error
    assert %{hits: 1, misses: 3, loads: 1, load_errors: 1, entries: 1} = Cache.stats(cache)
    Cache.put(cache, :key, 1)
    assert Cache.fetch(cache, :key, fn -> raise "not run" end) == {:ok, 1}
    Cache.delete(cache, :key)

    assert Cache.fetch(cache, :key, fn -> {:error, :down} end, negative_ttl: 1) ==
             {:error, :down}

    eventually(fn -> Cache.fetch(cache, :key, fn -> {:ok, 2} end) == {:ok, 2} end)
  end

  conform "a raise is not kept, with a negative_ttl either", %{engine: engine} do
    cache = cache!(engine, negative_ttl: 60_000)
    assert_raise RuntimeError, fn -> Cache.fetch(cache, :key, fn -> raise "failed" end) end
    assert Cache.fetch(cache, :key, fn -> {:ok, 1} end) == {:ok, 1}
  end

  conform "a stale value is served while one caller refreshes it", %{engine: engine} do
    cache = cache!(engine, ttl: 1, stale: 3_600_000)
    Cache.put(cache, :key, :old)
    await_stale(cache, :key)
    assert Cache.fetch(cache, :key) == {:ok, :old}
    assert Enum.to_list(Cache.stream(cache)) == [key: :old]

    refresher = fetcher(cache, :key)
    assert_receive {:loading, ^refresher}, 30_000
    before = Cache.stats(cache)
    for _n <- 1..10, do: assert(Cache.fetch(cache, :key, held(self())) == {:ok, :old})
    stats = Cache.stats(cache)
    assert stats.hits == before.hits + 10
    assert stats.stale_hits == before.stale_hits + 10
    assert stats.misses == before.misses

    release(refresher, {:ok, :new, ttl: 3_600_000})
    assert_receive {:fetched, ^refresher, {:ok, :new}}, 30_000
    assert Cache.fetch(cache, :key, held(self())) == {:ok, :new}
    assert %{loads: 1, entries: 1} = Cache.stats(cache)
  end

  conform "a stale value stays when its refresh fails", %{engine: engine} do
    cache = cache!(engine, ttl: 1, stale: 3_600_000, negative_ttl: 3_600_000)
    Cache.put(cache, :key, :old)
    await_stale(cache, :key)
    assert Cache.fetch(cache, :key, fn -> {:error, :down} end) == {:error, :down}
    assert Cache.fetch(cache, :key) == {:ok, :old}
    assert_raise RuntimeError, fn -> Cache.fetch(cache, :key, fn -> raise "failed" end) end
    assert Cache.fetch(cache, :key) == {:ok, :old}

    refresher = fetcher(cache, :key)
    assert_receive {:loading, ^refresher}, 30_000
    kill(refresher)
    next = fetcher(cache, :key)
    assert_receive {:loading, ^next}, 30_000
    release(next, {:ok, :new, ttl: 3_600_000})
    assert_receive {:fetched, ^next, {:ok, :new}}, 30_000
    assert %{loads: 3, load_errors: 2} = Cache.stats(cache)
  end

  conform "a stale value is gone after its time", %{engine: engine} do
    cache = cache!(engine, ttl: 1, stale: 1)
    Cache.put(cache, :key, :old)
    gone(cache, :key)
    assert %{expired: 1, entries: 0} = Cache.stats(cache)
  end

  conform "a refresh of a value that was deleted meanwhile is not stored", %{engine: engine} do
    cache = cache!(engine, ttl: 1, stale: 3_600_000)
    Cache.put(cache, :key, :old)
    await_stale(cache, :key)
    refresher = fetcher(cache, :key)
    assert_receive {:loading, ^refresher}, 30_000
    Cache.delete(cache, :key)
    release(refresher, {:ok, :new})
    assert_receive {:fetched, ^refresher, {:ok, :new}}, 30_000
    assert Cache.fetch(cache, :key) == :error
  end

  # Its load takes 20 ms, so that a refresh can come hours before the end.
  defp loader(loads) do
    fn ->
      Process.sleep(20)
      {:ok, :atomics.add_get(loads, 1, 1)}
    end
  end

  conform "with early: one caller refreshes a value before its ttl is over", %{engine: engine} do
    cache = cache!(engine, ttl: 3_600_000, early: 1_000_000)
    loads = :atomics.new(1, [])
    assert Cache.fetch(cache, :key, loader(loads)) == {:ok, 1}
    eventually(fn -> Cache.fetch(cache, :key, loader(loads)) == {:ok, 2} end)
    assert Cache.stats(cache).expired == 0

    # The others get the value that is there.
    refresher = await_refresher(cache)
    value = Cache.get(cache, :key)
    for _n <- 1..20, do: assert(Cache.fetch(cache, :key, held(self())) == {:ok, value})
    refute_received {:loading, _another}
    release(refresher, {:ok, :refreshed})
    assert_receive {:fetched, ^refresher, {:ok, :refreshed}}, 30_000
  end

  defp await_refresher(cache) do
    pid = fetcher(cache, :key)

    receive do
      {:loading, ^pid} -> pid
      {:fetched, ^pid, {:ok, _value}} -> await_refresher(cache)
    after
      30_000 -> flunk("no refresh")
    end
  end

  conform "nothing is refreshed early without early:, or after a put", %{engine: engine} do
    cache = cache!(engine, ttl: 3_600_000)
    loads = :atomics.new(1, [])
    for _n <- 1..50, do: Cache.fetch(cache, :key, loader(loads))
    assert :atomics.get(loads, 1) == 1

    cache = cache!(engine, ttl: 3_600_000, early: 1_000_000)
    for _n <- 1..50, do: Cache.fetch(cache, :key, loader(loads), early: nil)
    assert :atomics.get(loads, 1) == 2
    Cache.put(cache, :put, 1)
    for _n <- 1..50, do: Cache.fetch(cache, :put, loader(loads))
    assert :atomics.get(loads, 1) == 2
  end
end
