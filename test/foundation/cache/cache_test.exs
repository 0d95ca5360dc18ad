defmodule Foundation.CacheTest do
  use Foundation.Conformance.Cache

  doctest Foundation.Cache

  conform "get/3 and fetch/2 return what put/4 has stored", %{engine: engine} do
    cache = cache!(engine)
    assert Cache.get(cache, :key) == nil
    assert Cache.get(cache, :key, :default) == :default
    assert Cache.fetch(cache, :key) == :error
    assert Cache.put(cache, :key, nil) == :ok
    assert Cache.get(cache, :key, :default) == nil
    assert Cache.fetch(cache, :key) == {:ok, nil}
    assert Cache.put(cache, :key, 2) == :ok
    assert Cache.get(cache, :key) == 2
    assert Cache.size(cache) == 1
  end

  conform "keys are told apart by ===", %{engine: engine} do
    cache = cache!(engine)
    keys = [1, 1.0, "1", :"1", {1}, [1], %{}, %{a: 1}, %{a: 1.0}, nil, :_, {:_}, :"$1", <<1::3>>]
    for key <- keys, do: Cache.put(cache, key, {:value, key})
    for key <- keys, do: assert(Cache.get(cache, key) === {:value, key})
    assert Cache.size(cache) == length(keys)
    for key <- keys, do: Cache.delete(cache, key)
    assert Cache.size(cache) == 0
  end

  conform "fetch/4 loads what is not there, and keeps it", %{engine: engine} do
    cache = cache!(engine)
    assert Cache.fetch(cache, 3, fn -> {:ok, :loaded} end) == {:ok, :loaded}
    assert Cache.fetch(cache, 3, fn -> raise "not run" end) == {:ok, :loaded}
    assert Cache.fetch(cache, 4, fn key -> {:ok, key + 1} end) == {:ok, 5}
    assert Cache.get(cache, 4) == 5
    assert Cache.fetch(cache, 5, fn -> {:error, :down} end) == {:error, :down}
    assert Cache.fetch(cache, 5) == :error
    assert Cache.fetch(cache, 5, fn -> {:ok, :up} end) == {:ok, :up}
  end

  conform "any term is a value, and comes back as it is", %{engine: engine} do
    cache = cache!(engine)
    large = :binary.copy("x", 100_000)
    slice = binary_part(large, 10, 1_000)

    for value <- [
          large,
          slice,
          [slice | %{slice => {slice, <<slice::binary, 1::3>>}}],
          <<1::5>>,
          self(),
          make_ref(),
          %Range{first: 1, last: 2, step: 1},
          Enum.to_list(1..1_000) |> Map.new(&{&1, &1}),
          [:improper | :list]
        ] do
      Cache.put(cache, :key, value)
      assert Cache.get(cache, :key) === value
      assert Cache.fetch(cache, {:key, value}, fn -> {:ok, value} end) === {:ok, value}
      assert Cache.get(cache, {:key, value}) === value
    end
  end

  conform "delete/2 removes a key, and clear/1 everything", %{engine: engine} do
    cache = cache!(engine)
    for n <- 1..500, do: Cache.put(cache, n, n)
    assert Cache.delete(cache, 1) == :ok
    assert Cache.delete(cache, 1) == :ok
    assert Cache.fetch(cache, 1) == :error
    assert Cache.size(cache) == 499
    assert Cache.clear(cache) == :ok
    assert Cache.size(cache) == 0
    assert Enum.all?(1..500, &(Cache.get(cache, &1) == nil))
    assert %{entries: 0, bytes: 0, evicted: 0, expired: 0} = Cache.stats(cache)
    Cache.put(cache, 1, :again)
    assert Cache.get(cache, 1) == :again
  end

  conform "stream/1 gives each entry once, and no kept error", %{engine: engine} do
    cache = cache!(engine, negative_ttl: 60_000)
    assert Enum.to_list(Cache.stream(cache)) == []
    for n <- 1..1_000, do: Cache.put(cache, n, n * n)
    Cache.fetch(cache, :failing, fn -> {:error, :down} end)
    assert cache |> Cache.stream() |> Enum.sort() == for(n <- 1..1_000, do: {n, n * n})
    assert cache |> Cache.stream() |> Enum.take(3) |> length() == 3

    # A key that is there throughout appears once, while others come.
    seen =
      cache
      |> Cache.stream()
      |> Enum.map(fn {key, _value} ->
        Cache.put(cache, {:new, key}, key)
        if is_integer(key) and rem(key, 2) == 0, do: Cache.put(cache, key, :changed)
        key
      end)

    assert Enum.sort(for key <- seen, is_integer(key), do: key) == Enum.to_list(1..1_000)
  end

  conform "a second start under a name returns already_started", %{engine: engine} do
    cache = cache!(engine)
    owner = Process.whereis(cache)

    assert Cache.start_link(name: cache, max_bytes: 1, engine: engine) ==
             {:error, {:already_started, owner}}
  end

  conform "an orderly stop forgets everything", %{engine: engine} do
    cache = cache!(engine)
    Cache.put(cache, :key, 1)
    stop_supervised!(cache)
    assert_raise ArgumentError, ~r/unknown cache: /, fn -> Cache.get(cache, :key) end
    assert_raise ArgumentError, ~r/unknown cache: /, fn -> Cache.put(cache, :key, 2) end
    cache!(engine, name: cache)
    assert Cache.get(cache, :key) == nil
    assert %{hits: 0, misses: 1, entries: 0} = Cache.stats(cache)
  end

  conform "a cache that is not started raises, from every function", %{engine: _engine} do
    for cache <- [:unknown_cache, "text", nil, {:unknown_cache, :key}, 1, %{}],
        call <- [
          &Cache.get(&1, :key),
          &Cache.fetch(&1, :key),
          &Cache.fetch(&1, :key, fn -> {:ok, 1} end),
          &Cache.put(&1, :key, 1),
          &Cache.delete(&1, :key),
          &Cache.clear/1,
          &Cache.size/1,
          &Cache.stream/1,
          &Cache.stats/1
        ] do
      assert_raise ArgumentError, fn -> call.(cache) end
    end

    assert_raise ArgumentError, ~r/unknown cache: :unknown_cache/, fn ->
      Cache.get(:unknown_cache, 1)
    end
  end

  conform "wrong options and arguments raise, and change nothing", %{engine: engine} do
    name = unique_name("cache")

    for options <- [
          [],
          :wrong,
          [name: name],
          [max_bytes: 1],
          [name: "name", max_bytes: 1],
          [name: name, max_bytes: 0],
          [name: name, max_bytes: 1.5],
          [name: name, max_bytes: :infinity],
          [name: name, max_bytes: 1, max_entries: 0],
          [name: name, max_bytes: 1, ttl: -1],
          [name: name, max_bytes: 1, ttl: "1"],
          [name: name, max_bytes: 1, stale: nil],
          [name: name, max_bytes: 1, negative_ttl: 1.0],
          [name: name, max_bytes: 1, early: 0],
          [name: name, max_bytes: 1, early: :yes],
          [name: name, max_bytes: 1, load_timeout: 0],
          [name: name, max_bytes: 1, cluster: "cluster"],
          [name: name, max_bytes: 1, cluster: :unknown_cluster],
          [name: name, max_bytes: 1, engine: :mnesia]
        ] do
      assert_raise ArgumentError, fn -> Cache.start_link(options) end
    end

    assert_raise ArgumentError, ~r/did you mean :max_bytes/, fn ->
      Cache.start_link(name: name, max_byte: 1)
    end

    assert Process.whereis(name) == nil
    cache = cache!(engine)

    for options <- [:wrong, [ttl: -1], [ttl: nil], [tll: 1], [stale: :a], [early: 1.0], %{}] do
      assert_raise ArgumentError, fn -> Cache.put(cache, :key, 1, options) end
    end

    for options <- [:wrong, [ttl: -1], [tll: 1], [early: 0], [load_timeout: 0], [name: :a], nil] do
      assert_raise ArgumentError, fn -> Cache.fetch(cache, :key, fn -> {:ok, 1} end, options) end
    end

    for loader <- [nil, :fun, fn _, _ -> {:ok, 1} end, {:ok, 1}] do
      assert_raise ArgumentError, fn -> Cache.fetch(cache, :key, loader) end
    end

    for loaded <- [:ok, nil, 1, {:ok}, {:ok, 1, 2}, {:ok, 1, ttl: -1}, {:ok, 1, tll: 1}, :error] do
      assert_raise ArgumentError, fn -> Cache.fetch(cache, :key, fn -> loaded end) end
    end

    assert Cache.size(cache) == 0
    assert Cache.fetch(cache, :key, fn -> {:ok, 1} end) == {:ok, 1}
  end
end
