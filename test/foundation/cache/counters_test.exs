defmodule Foundation.Cache.CountersTest do
  use Foundation.Conformance.Cache

  @readers 8
  @reads 400

  conform "hits and misses are the reads, and loads the loaders that ended", %{engine: engine} do
    cache = cache!(engine, max_entries: 40, ttl: 5, stale: 5, negative_ttl: 5)
    # Reads that began, reads that ended, loaders that ended, and those that failed.
    count = :atomics.new(4, [])

    readers =
      for reader <- 1..@readers do
        Task.async(fn -> for n <- 1..@reads, do: read(cache, {reader, n}, count) end)
      end

    watch(readers, cache, count)
    stats = Cache.stats(cache)
    assert stats.hits + stats.misses == @readers * @reads
    assert stats.loads == :atomics.get(count, 3)
    assert stats.load_errors == :atomics.get(count, 4)
    assert stats.entries <= 40
  end

  defp watch(readers, cache, count) do
    ended = :atomics.get(count, 2)
    stats = Cache.stats(cache)
    began = :atomics.get(count, 1)
    assert (stats.hits + stats.misses) in ended..began
    assert stats.stale_hits <= stats.hits
    assert stats.load_errors <= stats.loads

    if Enum.any?(readers, &Process.alive?(&1.pid)),
      do: watch(readers, cache, count),
      else: Task.await_many(readers)
  end

  defp read(cache, seed, count) do
    key = :erlang.phash2(seed, 60)
    :atomics.add(count, 1, 1)

    case :erlang.phash2({:read, seed}, 4) do
      0 -> Cache.get(cache, key)
      1 -> Cache.fetch(cache, key)
      _2_or_3 -> caught(fn -> Cache.fetch(cache, key, fn -> load(seed, count) end) end)
    end

    :atomics.add(count, 2, 1)
  end

  defp load(seed, count) do
    :atomics.add(count, 3, 1)

    case :erlang.phash2({:load, seed}, 4) do
      0 ->
        :atomics.add(count, 4, 1)
        {:error, :down}

      1 ->
        :atomics.add(count, 4, 1)
        raise "failed"

      _2_or_3 ->
        {:ok, seed}
    end
  end
end
