defmodule Foundation.Cache.BoundsTest do
  use Foundation.Conformance.Cache

  defp binary(bytes), do: :binary.copy(<<0>>, bytes)

  conform "max_bytes is not exceeded by more than one entry, under 8 writers", %{engine: engine} do
    cache = cache!(engine, max_bytes: 4_000_000)
    sizes = [10, 100, 1_000, 10_000, 100_000, 1_000_000]

    writers =
      for writer <- 1..8 do
        Task.async(fn ->
          for n <- 1..150 do
            value = binary(Enum.at(sizes, :erlang.phash2({writer, n}, length(sizes))))

            case rem(n, 3) do
              0 -> Cache.put(cache, {writer, n}, value)
              1 -> Cache.put(cache, n, value)
              2 -> Cache.fetch(cache, {:loaded, n}, fn -> {:ok, value} end)
            end
          end
        end)
      end

    watch(writers, cache, 0)
    assert Cache.stats(cache).bytes <= 4_000_000
    assert Cache.stats(cache).evicted > 0

    kept = for {key, value} <- Cache.stream(cache), do: byte_size(value) + :erts_debug.size(key)
    assert Enum.sum(kept) <= Cache.stats(cache).bytes
    assert length(kept) == Cache.size(cache)
    Cache.clear(cache)
    assert %{bytes: 0, entries: 0} = Cache.stats(cache)
  end

  defp watch(writers, cache, highest) do
    highest = max(highest, Cache.stats(cache).bytes)
    assert highest <= 5_001_000

    if Enum.any?(writers, &Process.alive?(&1.pid)),
      do: watch(writers, cache, highest),
      else: Task.await_many(writers)
  end

  conform "a value larger than max_bytes is returned and not stored", %{engine: engine} do
    cache = cache!(engine, max_bytes: 10_000, ttl: 1, stale: 3_600_000)
    large = binary(10_001)
    assert Cache.fetch(cache, :key, fn -> {:ok, large} end) == {:ok, large}
    assert Cache.fetch(cache, :key) == :error
    assert %{rejected: 1, entries: 0, bytes: 0} = Cache.stats(cache)

    Cache.put(cache, :key, :small)
    assert Cache.put(cache, :key, large) == :ok
    assert Cache.fetch(cache, :key) == :error
    assert %{rejected: 2, entries: 0, bytes: 0, evicted: 0} = Cache.stats(cache)

    # By a refresh, too.
    Cache.put(cache, :key, :small)
    await_stale(cache, :key)
    assert Cache.fetch(cache, :key, fn -> {:ok, large} end) == {:ok, large}
    assert Cache.fetch(cache, :key) == :error
    assert %{rejected: 3, entries: 0} = Cache.stats(cache)
  end

  conform "a put that is too large evicts nothing else", %{engine: engine} do
    cache = cache!(engine, max_bytes: 10_000)
    for n <- 1..10, do: Cache.put(cache, n, n)
    Cache.put(cache, 11, binary(10_001))
    assert %{entries: 10, evicted: 0, rejected: 1} = Cache.stats(cache)
  end

  conform "there are never more than max_entries", %{engine: engine} do
    cache = cache!(engine, max_entries: 10)

    for n <- 1..100 do
      Cache.put(cache, n, n)
      assert Cache.size(cache) <= 10
      assert Cache.get(cache, n) == n
    end

    assert %{entries: 10, evicted: 90} = Cache.stats(cache)

    one = cache!(engine, max_entries: 1)
    for n <- 1..10, do: Cache.put(one, n, n)
    assert Enum.to_list(Cache.stream(one)) == [{10, 10}]
  end

  conform "entries that are read are kept, and those that are not are evicted", %{
    engine: engine
  } do
    cache = cache!(engine, max_entries: 100)
    for n <- 1..50, do: Cache.put(cache, {:hot, n}, n)

    for n <- 1..5_000 do
      Cache.put(cache, {:cold, n}, n)
      if rem(n, 10) == 0, do: for(n <- 1..50, do: Cache.get(cache, {:hot, n}))
    end

    assert Enum.count(1..50, &(Cache.get(cache, {:hot, &1}) != nil)) >= 45
  end

  conform "replacing a value counts the bytes of the new one", %{engine: engine} do
    cache = cache!(engine)
    Cache.put(cache, :key, binary(1_000))
    small = Cache.stats(cache).bytes
    Cache.put(cache, :key, binary(101_000))
    # The native engine keeps a long binary in an environment, which takes 3 KB.
    assert (Cache.stats(cache).bytes - small) in 99_000..104_000
    Cache.put(cache, :key, binary(1_000))
    assert Cache.stats(cache).bytes == small
    Cache.delete(cache, :key)
    assert Cache.stats(cache).bytes == 0
  end

  conform "lower limits of a new start evict what a crash has left", %{engine: engine} do
    cache = unique_name("cache")
    start = fn max -> Cache.start_link(name: cache, engine: engine, max_bytes: max) end
    owner = start_worker()
    unlinked = fn {:ok, pid} -> {Process.unlink(pid), pid} end
    {true, first} = run(owner, fn -> unlinked.(start.(10_000_000)) end)
    for n <- 1..100, do: Cache.put(cache, n, binary(1_000))
    kill(first)
    assert Cache.size(cache) == 100
    {true, second} = run(owner, fn -> unlinked.(start.(50_000)) end)
    assert Cache.stats(cache).bytes <= 50_000
    assert Cache.size(cache) in 20..49
    GenServer.stop(second)
  end
end
