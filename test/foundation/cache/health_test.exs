defmodule Foundation.Cache.HealthTest do
  use Foundation.Conformance.Cache

  alias Foundation.HealthCheck

  conform "check_cache/0 returns the counts of each cache, until it is stopped", %{
    engine: engine
  } do
    cache = cache!(engine, max_bytes: 1_000_000)
    Cache.put(cache, :key, 1)
    Cache.get(cache, :key)
    Cache.get(cache, :other)

    assert %{hits: 1, misses: 1, entries: 1, max_bytes: 1_000_000, owner_alive: true} =
             figures = HealthCheck.check_cache().caches[cache]

    assert figures.engine in [:native, :ets]
    assert figures.bytes > 0
    assert HealthCheck.check_all().cache.caches[cache].entries == 1
    assert HealthCheck.status() == :ok

    stop_supervised!(cache)
    refute is_map_key(HealthCheck.check_cache().caches, cache)
  end
end
