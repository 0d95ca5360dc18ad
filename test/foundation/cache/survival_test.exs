defmodule Foundation.Cache.SurvivalTest do
  use Foundation.Conformance.Cache

  alias Foundation.Cache.Backends.ETS.Loads

  conform "entries, counts and settings survive a kill of the owner", %{engine: engine} do
    cache = cache!(engine, negative_ttl: 3_600_000)
    for n <- 1..500, do: Cache.put(cache, n, n)
    Cache.fetch(cache, :failing, fn -> {:error, :down} end)
    Cache.get(cache, 1)
    before = Cache.stats(cache)
    kill_owner(cache)
    assert Cache.stats(cache) == before
    assert Enum.all?(1..500, &(Cache.get(cache, &1) == &1))
    assert Cache.fetch(cache, :failing, fn -> raise "not run" end) == {:error, :down}
    assert cache |> Cache.stream() |> Enum.count() == 500
    Cache.clear(cache)
    assert %{entries: 0, bytes: 0} = Cache.stats(cache)
  end

  conform "a load and the callers that wait survive a kill of the owner", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiters = for _n <- 1..3, do: fetcher(cache, :key)
    await_misses(cache, 4)
    kill_owner(cache)
    late = fetcher(cache, :key)
    await_misses(cache, 5)
    release(loader, {:ok, 1})
    for pid <- [loader, late | waiters], do: assert_receive({:fetched, ^pid, {:ok, 1}}, 30_000)
    assert Cache.get(cache, :key) == 1
    assert %{loads: 1} = Cache.stats(cache)
    refute_received {:loading, _another}
  end

  conform "a loader that dies after a kill of the owner is replaced", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiter = fetcher(cache, :key)
    await_misses(cache, 2)
    kill_owner(cache)
    kill(loader)
    assert_receive {:loading, ^waiter}, 30_000
    release(waiter, {:ok, 1})
    assert_receive {:fetched, ^waiter, {:ok, 1}}, 30_000
  end

  conform "a lease that ended stays ended after a kill of the owner", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    Cache.delete(cache, :key)
    kill_owner(cache)
    release(loader, {:ok, :old})
    assert_receive {:fetched, ^loader, {:ok, :old}}, 30_000
    assert Cache.fetch(cache, :key) == :error
  end

  @tag :capture_log
  conform "calls go on while the owner is killed again and again", %{engine: engine} do
    cache = cache!(engine, max_entries: 50)
    stop = :atomics.new(1, [])

    callers =
      for caller <- 1..4 do
        Task.async(fn -> call(cache, caller, 0, stop) end)
      end

    for _round <- 1..3, do: kill_owner(cache)
    :atomics.put(stop, 1, 1)
    calls = callers |> Task.await_many(60_000) |> Enum.sum()
    stats = Cache.stats(cache)
    assert stats.hits + stats.misses == calls
    assert stats.entries <= 50
    entries = Enum.to_list(Cache.stream(cache))
    assert length(entries) == stats.entries
    for {key, value} <- entries, do: assert(value == key)
    Cache.clear(cache)
    assert %{entries: 0, bytes: 0} = Cache.stats(cache)
  end

  defp call(cache, caller, n, stop) do
    key = :erlang.phash2({caller, n}, 100)
    {:ok, ^key} = Cache.fetch(cache, key, fn -> {:ok, key} end)
    if rem(n, 5) == 0, do: Cache.put(cache, key + 1, key + 1)
    if rem(n, 7) == 0, do: Cache.delete(cache, key)
    if :atomics.get(stop, 1) == 0, do: call(cache, caller, n + 1, stop), else: n + 1
  end

  # A kill in between then leaves no caller that has the lease and was not told.
  test "the ETS engine tells a caller of its lease before it notes it" do
    cache = cache!(:ets)
    server = Process.whereis(cache)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiter = fetcher(cache, :key)
    await_misses(cache, 2)
    :erlang.trace_pattern({Loads, :hand_over, 3}, true, [])
    1 = :erlang.trace(server, true, [:send, :call])
    Process.exit(loader, :kill)
    assert_receive {:loading, ^waiter}, 30_000

    steps =
      for _ <- 1..2 do
        receive do
          {:trace, ^server, :send, {:foundation_cache, _, {:load, _}}, ^waiter} -> :told
          {:trace, ^server, :call, {Loads, :hand_over, _arguments}} -> :noted
        end
      end

    assert steps == [:told, :noted]
  end
end
