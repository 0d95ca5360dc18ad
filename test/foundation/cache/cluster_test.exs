defmodule Foundation.Cache.ClusterTest do
  use Foundation.Conformance.Cache

  import Foundation.CacheNode,
    only: [on: 3, load: 3, connect: 2, disconnect: 2, start_child: 2, start_cache: 3]

  alias Foundation.Cache.Invalidator
  alias Foundation.CacheNode

  @moduletag :capture_log
  @moduletag timeout: 240_000
  @settle_ms 20_000

  setup_all do
    %{one: CacheNode.start(), two: CacheNode.start()}
  end

  # Connected nodes, each with a cache of one name.
  setup %{one: one, two: two} = context do
    connect(one, two)
    cluster = unique_name("cluster")
    cache = unique_name("cache")
    for peer <- [one, two], do: start_cache(peer, cluster, name: cache, engine: context.engine)
    on_exit(fn -> for peer <- [one, two], do: CacheNode.stop(peer, [cache, cluster]) end)
    %{cluster: cluster, cache: cache}
  end

  defp put(peer, cache, key, value), do: on(peer, :put, [cache, key, value])
  defp get(peer, cache, key), do: on(peer, :get, [cache, key])

  # The message of a later write has been handled, so those of earlier ones have been.
  defp await_invalidation(from, to, cache) do
    marker = {:marker, System.unique_integer()}
    load(to, cache, marker)
    on(from, :delete, [cache, marker])
    eventually(fn -> get(to, cache, marker) == nil end, @settle_ms)
  end

  conform "put/4, delete/2 and clear/1 invalidate on the other node, and loads do not",
          %{one: one, two: two, cache: cache} do
    for peer <- [one, two], key <- [:put, :delete, :other], do: load(peer, cache, key)
    await_invalidation(one, two, cache)
    await_invalidation(two, one, cache)

    for peer <- [one, two],
        key <- [:put, :delete, :other],
        do: assert(get(peer, cache, key) == {:loaded, key})

    put(one, cache, :put, 1)
    on(one, :delete, [cache, :delete])
    eventually(fn -> get(two, cache, :put) == nil and get(two, cache, :delete) == nil end)
    assert get(two, cache, :other) == {:loaded, :other}
    assert get(one, cache, :put) == 1

    on(two, :clear, [cache])
    eventually(fn -> get(one, cache, :put) == nil and get(one, cache, :other) == nil end)
  end

  conform "a load under way on the other node is not stored after a delete/2",
          %{one: one, two: two, cache: cache} do
    fetcher = CacheNode.fetcher(two, cache, :key)
    on(one, :delete, [cache, :key])
    await_invalidation(one, two, cache)
    assert CacheNode.release(two, fetcher, {:ok, :old}) == {:ok, :old}
    assert on(two, :fetch, [cache, :key]) == :error

    fetcher = CacheNode.fetcher(two, cache, :key)
    on(one, :clear, [cache])
    await_invalidation(one, two, cache)
    CacheNode.release(two, fetcher, {:ok, :old})
    assert on(two, :fetch, [cache, :key]) == :error
  end

  conform "a cache of another cluster, or of none, is left alone",
          %{one: one, two: two, cache: cache, engine: engine} do
    [alone, other, third] = for name <- ~w(alone other third), do: unique_name(name)
    options = [max_bytes: 1_000_000, engine: engine]
    for peer <- [one, two], do: start_child(peer, {Cache, [name: alone] ++ options})
    start_child(one, {Foundation.Cluster, name: third})
    start_child(one, {Cache, [name: other, cluster: third] ++ options})
    start_child(two, {Cache, [name: other] ++ options})

    for peer <- [one, two], name <- [alone, other], do: load(peer, name, :key)
    for name <- [alone, other], do: on(one, :delete, [name, :key])
    await_invalidation(one, two, cache)
    for name <- [alone, other], do: assert(get(two, name, :key) == {:loaded, :key})
    for peer <- [one, two], do: CacheNode.stop(peer, [alone, other, third])
  end

  conform "after a reconnect everything that was stored before it has expired",
          %{one: one, two: two, cache: cache, engine: engine} do
    alone = unique_name("alone")
    start_child(one, {Cache, name: alone, max_bytes: 1_000_000, engine: engine})
    for peer <- [one, two], do: load(peer, cache, :before)
    load(one, alone, :before)
    fetcher = CacheNode.fetcher(one, cache, :loading)
    disconnect(one, two)
    for peer <- [one, two], do: assert(get(peer, cache, :before) == {:loaded, :before})
    for peer <- [one, two], do: load(peer, cache, :during)
    connect(one, two)

    for peer <- [one, two],
        key <- [:before, :during],
        do: eventually(fn -> get(peer, cache, key) == nil end, @settle_ms)

    # A load that began before it may have missed a write.
    CacheNode.release(one, fetcher, {:ok, :old})
    assert on(one, :fetch, [cache, :loading]) == :error
    assert get(one, alone, :before) == {:loaded, :before}
    assert on(one, :stats, [cache]).expired > 0

    load(two, cache, :after)
    await_invalidation(one, two, cache)
    assert get(two, cache, :after) == {:loaded, :after}
    CacheNode.stop(one, [alone])
  end

  conform "a new node expires on the others what it has written before it connected",
          %{one: one, two: two, cache: cache, cluster: cluster, engine: engine} do
    load(one, cache, :key)
    quiet = CacheNode.start()
    start_cache(quiet, cluster, name: cache, engine: engine)
    load(quiet, cache, :own)
    CacheNode.introduce(quiet, one)
    await_invalidation(quiet, one, cache)
    assert get(one, cache, :key) == {:loaded, :key}

    writer = CacheNode.start()
    start_cache(writer, cluster, name: cache, engine: engine)
    put(writer, cache, :key, 1)
    CacheNode.introduce(writer, one)
    eventually(fn -> get(one, cache, :key) == nil end, @settle_ms)
    assert get(writer, cache, :key) == 1

    # The first node has written before it is connected to this one.
    put(one, cache, :written, 1)
    await_invalidation(one, two, cache)
    late = CacheNode.start()
    start_cache(late, cluster, name: cache, engine: engine)
    load(late, cache, :key)
    CacheNode.introduce(one, late)
    eventually(fn -> get(late, cache, :key) == nil end, @settle_ms)
  end

  conform "a crash of the process that gets invalidations expires what there is",
          %{one: one, two: {peer, _node} = two, cache: cache} do
    load(two, cache, :key)
    pid = :peer.call(peer, Process, :whereis, [Invalidator])
    :peer.call(peer, Process, :exit, [pid, :kill])
    eventually(fn -> get(two, cache, :key) == nil end, @settle_ms)
    load(two, cache, :key)
    await_invalidation(one, two, cache)
    assert get(two, cache, :key) == {:loaded, :key}
  end

  conform "a write does not wait for a node that does not read, which then expires everything",
          %{one: {peer, _node} = one, two: {suspended, _} = two, cache: cache} do
    load(two, cache, :key)
    pid = :peer.call(suspended, System, :pid, [])
    {_output, 0} = System.cmd("kill", ["-STOP", pid])
    large = :binary.copy("x", 200_000)

    try do
      write_until_behind(peer, one, cache, large, 0)
    after
      System.cmd("kill", ["-CONT", pid])
    end

    eventually(fn -> get(two, cache, :key) == nil end, @settle_ms)
    eventually(fn -> behind(peer) == 0 end, @settle_ms)
    load(two, cache, :key)
    await_invalidation(one, two, cache)
    assert get(two, cache, :key) == {:loaded, :key}
  end

  defp write_until_behind(peer, one, cache, large, n) do
    assert n < 1_000, "the connection takes everything"
    on(one, :delete, [cache, {large, n}])
    if behind(peer) == 0, do: write_until_behind(peer, one, cache, large, n + 1)
  end

  defp behind(peer), do: MapSet.size(:peer.call(peer, :sys, :get_state, [Invalidator]).behind)
end
