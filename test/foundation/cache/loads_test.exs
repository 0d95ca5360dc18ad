defmodule Foundation.Cache.LoadsTest do
  use Foundation.Conformance.Cache

  alias Foundation.Cache.Backends.ETS.Loads

  conform "1,000 callers of a missing key share one load", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiters = for _n <- 1..999, do: fetcher(cache, :key)
    await_misses(cache, 1_000)
    release(loader, {:ok, :value})

    for pid <- [loader | waiters],
        do: assert_receive({:fetched, ^pid, {:ok, :value}}, 30_000)

    refute_received {:loading, _fetcher}
    assert %{hits: 0, misses: 1_000, loads: 1, load_errors: 0, entries: 1} = Cache.stats(cache)
    assert Cache.get(cache, :key) == :value
  end

  conform "those who wait get the error of the loader too", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiter = fetcher(cache, :key)
    await_misses(cache, 2)
    release(loader, {:error, :down})
    for pid <- [loader, waiter], do: assert_receive({:fetched, ^pid, {:error, :down}}, 30_000)
    assert %{loads: 1, load_errors: 1, entries: 0} = Cache.stats(cache)
  end

  conform "the next caller loads when the loader is killed, 100 times", %{engine: engine} do
    cache = cache!(engine)

    for round <- 1..100 do
      loader = fetcher(cache, round)
      assert_receive {:loading, ^loader}, 30_000
      misses = Cache.stats(cache).misses
      waiters = for _n <- 1..4, do: fetcher(cache, round)
      await_misses(cache, misses + 4)
      kill(loader)
      assert_receive {:loading, next}, 30_000
      assert next in waiters
      release(next, {:ok, round})
      for pid <- waiters, do: assert_receive({:fetched, ^pid, {:ok, ^round}}, 30_000)
      refute_received {:loading, _another}
      assert Cache.get(cache, round) == round
    end

    # A killed loader has not ended, and each fetch is counted once.
    assert %{loads: 100, load_errors: 0, misses: 500} = Cache.stats(cache)
  end

  conform "a waiter that is dead is passed over", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    first = fetcher(cache, :key)
    await_misses(cache, 2)
    second = fetcher(cache, :key)
    await_misses(cache, 3)
    kill(first)
    kill(loader)
    assert_receive {:loading, ^second}, 30_000
    release(second, {:ok, 1})
    assert_receive {:fetched, ^second, {:ok, 1}}, 30_000
  end

  conform "the key is free again when a loader dies and nobody waits", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    kill(loader)
    assert Cache.fetch(cache, :key, fn -> {:ok, 1} end) == {:ok, 1}
  end

  for {write, expected} <- [
        {quote(do: &Cache.delete(&1, :key)), nil},
        {quote(do: &Cache.clear/1), nil},
        {quote(do: &Cache.put(&1, :key, :put)), :put}
      ] do
    conform "a value that was loaded before #{Macro.to_string(write)} is not stored", %{
      engine: engine
    } do
      cache = cache!(engine)
      loader = fetcher(cache, :key)
      assert_receive {:loading, ^loader}, 30_000
      waiter = fetcher(cache, :key)
      await_misses(cache, 2)
      :ok = unquote(write).(cache)
      assert Cache.get(cache, :key) == unquote(expected)
      release(loader, {:ok, :old})
      for pid <- [loader, waiter], do: assert_receive({:fetched, ^pid, {:ok, :old}}, 30_000)
      assert Cache.get(cache, :key) == unquote(expected)
      assert %{loads: 1} = Cache.stats(cache)
    end
  end

  conform "a caller that comes after a delete does not wait for the old load", %{engine: engine} do
    cache = cache!(engine)
    old = fetcher(cache, :key)
    assert_receive {:loading, ^old}, 30_000
    Cache.delete(cache, :key)
    new = fetcher(cache, :key)
    assert_receive {:loading, ^new}, 30_000
    release(new, {:ok, :new})
    assert_receive {:fetched, ^new, {:ok, :new}}, 30_000
    release(old, {:ok, :old})
    assert_receive {:fetched, ^old, {:ok, :old}}, 30_000
    assert Cache.get(cache, :key) == :new
    assert %{loads: 2, entries: 1} = Cache.stats(cache)
  end

  conform "callers of a load whose lease has ended load anew when it dies", %{engine: engine} do
    cache = cache!(engine)
    old = fetcher(cache, :key)
    assert_receive {:loading, ^old}, 30_000
    waiters = for _n <- 1..3, do: fetcher(cache, :key)
    await_misses(cache, 4)
    Cache.delete(cache, :key)
    kill(old)
    assert_receive {:loading, next}, 30_000
    assert next in waiters
    release(next, {:ok, :new})
    for pid <- waiters, do: assert_receive({:fetched, ^pid, {:ok, :new}}, 30_000)
    assert %{loads: 1, misses: 4} = Cache.stats(cache)
    assert Cache.get(cache, :key) == :new
  end

  conform "a put during a load whose loader dies answers those who wait", %{engine: engine} do
    cache = cache!(engine)
    old = fetcher(cache, :key)
    assert_receive {:loading, ^old}, 30_000
    waiter = fetcher(cache, :key)
    await_misses(cache, 2)
    Cache.put(cache, :key, :put)
    kill(old)
    assert_receive {:fetched, ^waiter, {:ok, :put}}, 30_000
    assert %{hits: 0, misses: 2} = Cache.stats(cache)
  end

  conform "a delete and a load that end in any order leave nothing old", %{engine: engine} do
    cache = cache!(engine)
    source = :atomics.new(1, [])

    # The loader reads a source, and each round the source changes before the delete.
    reader = fn ->
      Cache.fetch(cache, :key, fn -> {:ok, :atomics.get(source, 1)} end)
    end

    readers =
      for _n <- 1..4 do
        Task.async(fn ->
          for _round <- 1..500, do: {:ok, _value} = reader.()
        end)
      end

    for round <- 1..500 do
      :atomics.put(source, 1, round)
      Cache.delete(cache, :key)
      {:ok, value} = reader.()
      assert value == round
    end

    Task.await_many(readers, 60_000)
    assert Cache.get(cache, :key) in [nil, 500]
  end

  conform "a loader that fetches its own key raises", %{engine: engine} do
    cache = cache!(engine)

    assert_raise ArgumentError, ~r/fetches that key itself/, fn ->
      Cache.fetch(cache, :a, fn -> Cache.fetch(cache, :a, fn -> {:ok, 1} end) end)
    end

    assert_raise ArgumentError, ~r/fetches that key itself/, fn ->
      Cache.fetch(cache, :a, fn ->
        Cache.fetch(cache, :b, fn -> Cache.fetch(cache, :a, fn -> {:ok, 1} end) end)
      end)
    end

    # With a lease that has ended, too.
    assert_raise ArgumentError, ~r/fetches that key itself/, fn ->
      Cache.fetch(cache, :a, fn ->
        Cache.delete(cache, :a)
        Cache.fetch(cache, :a, fn -> {:ok, 1} end)
      end)
    end

    assert Cache.size(cache) == 0
    # Other keys are fine, and so are reads that do not load.
    assert Cache.fetch(cache, :a, fn ->
             :error = Cache.fetch(cache, :a)
             Cache.fetch(cache, :b, fn -> {:ok, Cache.get(cache, :a, 2)} end)
           end) == {:ok, 2}

    assert Cache.get(cache, :a) == 2
    assert Cache.get(cache, :b) == 2
  end

  conform "a raise is raised in its caller, and those who wait get a LoadError", %{
    engine: engine
  } do
    cache = cache!(engine)

    for {raise, caught, kind, reason} <- [
          {fn -> raise "failed" end, {:error, %RuntimeError{message: "failed"}}, :error,
           %RuntimeError{message: "failed"}},
          {fn -> throw(:ball) end, {:throw, :ball}, :throw, :ball},
          {fn -> exit(:over) end, {:exit, :over}, :exit, :over},
          {fn -> :erlang.error(:badarg) end, {:error, :badarg}, :error, %ArgumentError{}}
        ] do
      misses = Cache.stats(cache).misses
      loader = fetcher(cache, :key)
      assert_receive {:loading, ^loader}, 30_000
      waiter = fetcher(cache, :key)
      await_misses(cache, misses + 2)
      release(loader, raise)
      assert_receive {:fetched, ^loader, ^caught}, 30_000
      assert_receive {:fetched, ^waiter, {:error, %LoadError{} = error}}, 30_000
      assert %{cache: ^cache, key: :key, kind: ^kind, reason: ^reason} = error
      assert Exception.message(error) =~ "the load of :key of"
    end

    assert %{loads: 4, load_errors: 4, entries: 0} = Cache.stats(cache)
  end

  conform "those who wait for longer than load_timeout get a LoadError", %{engine: engine} do
    cache = cache!(engine, load_timeout: 60_000)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000

    assert {:error, %LoadError{reason: :timeout} = error} =
             Cache.fetch(cache, :key, fn -> raise "not run" end, load_timeout: 1)

    assert Exception.message(error) =~ "did not end in time"
    release(loader, {:ok, 1})
    assert_receive {:fetched, ^loader, {:ok, 1}}, 30_000
    assert Cache.get(cache, :key) == 1
    assert Process.info(self(), :messages) == {:messages, []}
  end

  conform "a load older than load_timeout is not waited for", %{engine: engine} do
    cache = cache!(engine, load_timeout: 20)
    stuck = fetcher(cache, :key)
    assert_receive {:loading, ^stuck}, 30_000
    # Until then callers wait in vain, each for its own time.
    eventually(fn -> Cache.fetch(cache, :key, fn -> {:ok, :new} end) == {:ok, :new} end)
    release(stuck, {:ok, :old})
    assert_receive {:fetched, ^stuck, {:ok, :old}}, 30_000
    assert Cache.get(cache, :key) == :new
  end

  conform "a cache that is stopped tells those who wait", %{engine: engine} do
    cache = cache!(engine)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    waiter = fetcher(cache, :key)
    await_misses(cache, 2)
    stop_supervised!(cache)
    assert_receive {:fetched, ^waiter, {:error, %ArgumentError{}}}, 30_000
    # The loader's caller gets its value.
    release(loader, {:ok, 1})
    assert_receive {:fetched, ^loader, {:ok, 1}}, 30_000
  end

  test "loads and callers that end leave nothing behind in the ETS engine" do
    cache = cache!(:ets, load_timeout: 60_000)
    loader = fetcher(cache, :key)
    assert_receive {:loading, ^loader}, 30_000
    assert {:error, %LoadError{}} = Cache.fetch(cache, :key, fn -> {:ok, 1} end, load_timeout: 1)
    dead = for _n <- 1..10, do: fetcher(cache, :key)
    await_misses(cache, 12)
    for pid <- dead, do: kill(pid)
    eventually(fn -> Loads.waiters(cache) == [] end)
    waiters = for _n <- 1..3, do: fetcher(cache, :key)
    await_misses(cache, 15)
    kill(loader)
    assert_receive {:loading, next}, 30_000
    Cache.delete(cache, :key)
    kill(next)
    assert_receive {:loading, last}, 30_000
    release(last, {:ok, 1})
    for pid <- waiters -- [next], do: assert_receive({:fetched, ^pid, {:ok, 1}}, 30_000)
    assert Loads.all(cache) == []
    assert Loads.waiters(cache) == []
    assert :sys.get_state(cache).state.state.monitors == %{}
  end

  conform "events tell of each load, in the process that loads", %{engine: engine} do
    cache = cache!(engine)
    events = for name <- [:start, :stop, :exception], do: [:foundation, :cache, :load, name]
    :telemetry.attach_many(cache, events, &__MODULE__.event/4, {self(), cache})
    on_exit(fn -> :telemetry.detach(cache) end)

    Cache.fetch(cache, :key, fn -> {:ok, 1} end)
    assert_received {:start, %{system_time: time}, %{cache: ^cache, key: :key}}
    assert is_integer(time)
    assert_received {:stop, %{duration: duration}, %{key: :key, result: :ok, stored: true}}
    assert duration > 0

    Cache.fetch(cache, :key, fn -> {:ok, 1} end)
    refute_received {:start, _measurements, _metadata}

    Cache.fetch(cache, :other, fn -> {:error, 1} end)
    assert_received {:start, _measurements, %{key: :other}}
    assert_received {:stop, _measurements, %{key: :other, result: :error, stored: false}}

    catch_throw(Cache.fetch(cache, :other, fn -> throw(:ball) end))
    assert_received {:start, _measurements, %{key: :other}}

    assert_received {:exception, %{duration: _},
                     %{kind: :throw, reason: :ball, stacktrace: [_ | _]}}
  end

  def event([_, _, _, name], measurements, %{cache: cache} = metadata, {pid, cache}),
    do: if(self() == pid, do: send(pid, {name, measurements, metadata}))

  def event(_name, _measurements, _metadata, _config), do: :ok
end
