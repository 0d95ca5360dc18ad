defmodule Foundation.Cache.ApplicationTest do
  # Not async: stops the application, and kills processes that all caches share.
  use Foundation.Conformance.Cache, async: false

  alias Foundation.Cache.{Instance, Invalidator}

  @moduletag :capture_log

  conform "an owner that outlives the application opens its cache again", %{engine: engine} do
    cache = cache!(engine)
    owner = Process.whereis(cache)
    Cache.put(cache, :key, 1)
    :ok = Application.stop(:foundation)
    assert_raise ArgumentError, fn -> Cache.put(cache, :key, 2) end
    :ok = Application.start(:foundation)
    eventually(fn -> caught(fn -> Cache.get(cache, :key) end) == nil end)
    assert Cache.put(cache, :key, 3) == :ok
    assert Cache.fetch(cache, :other, fn -> {:ok, 4} end) == {:ok, 4}
    assert %{entries: 2} = Cache.stats(cache)
    assert Process.whereis(cache) == owner
    kill_owner(cache)
    assert Cache.get(cache, :key) == 3
  end

  conform "a kill of the processes that caches share changes nothing", %{engine: engine} do
    cache = cache!(engine)
    Cache.put(cache, :key, 1)

    for name <- [Instance.reaper(), Invalidator, Foundation.CacheSupervisor] do
      pid = Process.whereis(name)
      kill(pid)
      eventually(fn -> Process.whereis(name) not in [nil, pid] end)
      assert Cache.get(cache, :key) == 1
      assert Cache.put(cache, :key, 1) == :ok
    end

    kill_owner(cache)
    assert Cache.get(cache, :key) == 1
  end

  conform "a cache whose owner does not come back is removed after the adopt_timeout", %{
    engine: engine
  } do
    registry = Application.get_env(:foundation, :registry, [])
    Application.put_env(:foundation, :registry, Keyword.put(registry, :adopt_timeout, 1))
    on_exit(fn -> Application.put_env(:foundation, :registry, registry) end)
    cache = unique_name("cache")
    options = [name: cache, engine: engine, max_bytes: 1_000_000]

    {:ok, owner} =
      run(start_worker(), fn ->
        {:ok, owner} = Cache.start_link(options)
        Process.unlink(owner)
        {:ok, owner}
      end)

    Cache.put(cache, :key, 1)
    loader = fetcher(cache, :loading)
    assert_receive {:loading, ^loader}, 30_000
    waiter = fetcher(cache, :loading)
    await_misses(cache, 2)
    kill(owner)
    assert_receive {:fetched, ^waiter, {:error, %ArgumentError{}}}, 30_000
    assert_raise ArgumentError, ~r/unknown cache/, fn -> Cache.get(cache, :key) end
    assert Instance.config(cache) == nil

    start_supervised!({Cache, options})
    assert Cache.get(cache, :key) == nil
  end
end
