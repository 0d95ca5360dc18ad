import Foundation.Conformance.Registry

conformance "LookupMany",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}]] do
  test "lookup_many/2 returns what lookup/2 returns, in the keys' order", %{registry: registry} do
    worker = start_worker()
    for key <- 1..20, do: {:ok, _} = Registry.register(registry, key, {:mine, key})
    for key <- 21..40, do: {:ok, _} = run(worker, fn -> Registry.register(registry, key, key) end)

    keys = Enum.shuffle(Enum.concat([1..60, 1..5, [:absent, 1.0, %{}, "1"]]))
    assert Registry.lookup_many(registry, keys) == Enum.map(keys, &Registry.lookup(registry, &1))
    assert Registry.lookup_many(registry, []) == []
  end

  test "lookup_many/2 takes keys of every kind", %{registry: registry} do
    terms = Foundation.Terms.all()
    for {name, key} <- terms, do: {:ok, _} = Registry.register(registry, key, name)

    assert Registry.lookup_many(registry, Enum.map(terms, &elem(&1, 1))) ==
             Enum.map(terms, fn {name, _key} -> [{self(), name}] end)
  end

  test "lookup_many/2 takes more keys than one chunk holds", %{registry: registry} do
    for key <- 1..1_000, do: {:ok, _} = Registry.register(registry, key, -key)
    keys = for index <- 1..50_000, do: rem(index * 7, 2_000)

    expected = for key <- keys, do: if(key in 1..1_000, do: [{self(), -key}], else: [])

    assert Registry.lookup_many(registry, keys) == expected
  end

  test "lookup_many/2 returns no entry of a dead process", %{registry: registry} do
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, :dead, 1) end)
    {:ok, _} = Registry.register(registry, :alive, 2)
    kill(worker)
    assert Registry.lookup_many(registry, [:dead, :alive]) == [[], [{self(), 2}]]
  end

  test "lookup_many/2 raises for a term that is not a list and for an unknown registry", %{
    registry: registry
  } do
    assert_raise FunctionClauseError, fn -> apply(Registry, :lookup_many, [registry, :key]) end
    unknown = unique_name("unknown")
    message = "unknown registry: #{inspect(unknown)}"
    assert_raise ArgumentError, message, fn -> Registry.lookup_many(unknown, [1]) end
    assert_raise ArgumentError, message, fn -> Registry.lookup_many(unknown, []) end
  end
end

conformance "Broadcast",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}, partitions: 4]] do
  test "broadcast/3 sends one message per entry and returns their number", %{
    registry: registry,
    options: options
  } do
    {:ok, _} = Registry.register(registry, "topic", 1)
    times = if options[:keys] == :unique, do: 1, else: 2
    if times == 2, do: {:ok, _} = Registry.register(registry, "topic", 2)
    {:ok, _} = Registry.register(registry, "other", 1)

    message = {:news, %{of: ["any", :kind]}}
    assert Registry.broadcast(registry, "topic", message) == times
    for _time <- 1..times, do: assert_received(^message)
    refute_received _any_other
    assert Registry.broadcast(registry, "absent", message) == 0
    refute_received _any_other
  end

  test "broadcast/3 reaches only live processes", %{registry: registry, options: options} do
    if options[:keys] != :unique do
      [dying | staying] = workers = start_workers(30)

      for worker <- workers,
          do: {:ok, _} = run(worker, fn -> Registry.register(registry, :t, 1) end)

      kill(dying)
      me = self()
      assert Registry.broadcast(registry, :t, {:run, me, :reply, fn -> :done end}) == 29
      for _worker <- staying, do: assert_receive({:reply, :returned, :done})
    else
      worker = start_worker()
      {:ok, _} = run(worker, fn -> Registry.register(registry, :t, 1) end)
      kill(worker)
      assert Registry.broadcast(registry, :t, :message) == 0
    end
  end

  test "broadcast/3 keeps the order of one sender's messages", %{registry: registry} do
    {:ok, _} = Registry.register(registry, "topic", 1)
    for index <- 1..100, do: 1 = Registry.broadcast(registry, "topic", index)
    for index <- 1..100, do: assert_receive(^index)
  end

  test "broadcast/3 of an unknown registry raises", _context do
    unknown = unique_name("unknown")

    assert_raise ArgumentError, "unknown registry: #{inspect(unknown)}", fn ->
      Registry.broadcast(unknown, :key, :message)
    end
  end
end

conformance "BroadcastToMany", subjects: :ours, variants: [[keys: :duplicate]] do
  test "broadcast/3 reaches a topic of 20,000 entries", %{registry: registry} do
    for index <- 1..20_000, do: {:ok, _} = Registry.register(registry, :topic, index)
    assert Registry.broadcast(registry, :topic, :news) == 20_000
    assert count_messages(:news, 0) == 20_000
  end

  defp count_messages(message, count) do
    receive do
      ^message -> count_messages(message, count + 1)
    after
      0 -> count
    end
  end
end

conformance "Stream",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}, partitions: 4]] do
  test "stream/1 returns every entry as key, process and value", %{registry: registry} do
    worker = start_worker()
    for key <- 1..10, do: {:ok, _} = Registry.register(registry, {:key, key}, key)
    {:ok, _} = run(worker, fn -> Registry.register(registry, "theirs", %{a: 1}) end)

    expected = [{"theirs", worker, %{a: 1}} | for(key <- 1..10, do: {{:key, key}, self(), key})]
    assert Enum.sort(Registry.stream(registry)) == Enum.sort(expected)
  end

  test "stream/1 of an empty registry is empty", %{registry: registry} do
    assert Enum.to_list(Registry.stream(registry)) == []
  end

  test "stream/1 is lazy, and walks anew each time", %{registry: registry} do
    stream = Registry.stream(registry)
    for key <- 1..10_000, do: {:ok, _} = Registry.register(registry, key, nil)
    assert [{_key, _pid, nil}] = Enum.take(stream, 1)
    assert Enum.count(stream) == 10_000
    :ok = Registry.unregister(registry, 1)
    assert Enum.count(stream) == 9_999
  end

  test "stream/1 returns no entry of a dead process", %{registry: registry} do
    worker = start_worker()
    run(worker, fn -> for key <- 1..500, do: Registry.register(registry, {:dead, key}, 1) end)
    {:ok, _} = Registry.register(registry, :alive, 2)
    kill(worker)
    assert Enum.to_list(Registry.stream(registry)) == [{:alive, self(), 2}]
  end

  test "stream/1 of an unknown registry raises", _context do
    unknown = unique_name("unknown")

    assert_raise ArgumentError, "unknown registry: #{inspect(unknown)}", fn ->
      Enum.to_list(Registry.stream(unknown))
    end
  end

  test "stream/1 returns an entry that stays exactly once while others come and go", %{
    registry: registry
  } do
    for key <- 1..3_000, do: {:ok, _} = Registry.register(registry, {:stays, key}, key)
    stop = :atomics.new(1, [])

    churners =
      for churner <- 1..3 do
        Task.async(fn -> churn(registry, churner, stop, 0) end)
      end

    for _walk <- 1..10 do
      seen = Enum.map(Registry.stream(registry), fn {key, _pid, value} -> {key, value} end)
      stayed = for {{:stays, key}, key} <- seen, do: key
      assert Enum.sort(stayed) == Enum.to_list(1..3_000)
      passing = Enum.reject(seen, &match?({{:stays, _}, _}, &1))
      assert length(passing) == length(Enum.uniq(passing))
    end

    :atomics.put(stop, 1, 1)
    assert Enum.sum(Task.await_many(churners, 30_000)) > 0
  end

  # Each registration has a value of its own, so the test notices an entry that is returned twice.
  defp churn(registry, churner, stop, round) do
    if :atomics.get(stop, 1) == 1 do
      round
    else
      keys = for key <- 1..100, do: {:passes, churner, rem(round * 31 + key, 1_000)}
      for key <- keys, do: {:ok, _} = Registry.register(registry, key, {round, key})
      for key <- keys, do: :ok = Registry.unregister(registry, key)
      churn(registry, churner, stop, round + 1)
    end
  end
end

conformance "Info", subjects: :ours, variants: [[keys: :unique], [keys: :duplicate]] do
  test "info/1 counts entries, keys and processes, and names its engine",
       %{registry: registry} = context do
    assert %{size: 0, keys: 0, processes: 0, memory: empty, engine: engine, drops: 0} =
             Registry.info(registry)

    assert engine == context.subject
    worker = start_worker()
    for key <- 1..1_000, do: {:ok, _} = Registry.register(registry, key, nil)
    {:ok, _} = run(worker, fn -> Registry.register(registry, :theirs, nil) end)

    assert %{size: 1_001, keys: 1_001, processes: 2, memory: full, drops: 0} =
             Registry.info(registry)

    assert is_integer(empty) and empty >= 0
    assert full > empty

    kill(worker)

    eventually(fn ->
      match?(%{size: 1_000, keys: 1_000, processes: 1}, Registry.info(registry))
    end)

    for key <- 1..1_000, do: :ok = Registry.unregister(registry, key)
    eventually(fn -> match?(%{size: 0, keys: 0, processes: 0}, Registry.info(registry)) end)
  end

  test "info/1 counts a key with several entries once", %{registry: registry, options: options} do
    if options[:keys] == :duplicate do
      for value <- 1..5, do: {:ok, _} = Registry.register(registry, :key, value)
      assert %{size: 5, keys: 1, processes: 1} = Registry.info(registry)
      :ok = Registry.unregister_match(registry, :key, 1)
      assert %{size: 4, keys: 1, processes: 1} = Registry.info(registry)
    else
      {:ok, _} = Registry.register(registry, :key, 1)
      {:error, _} = Registry.register(registry, :key, 2)
      assert %{size: 1, keys: 1, processes: 1} = Registry.info(registry)
    end
  end

  test "info/1 of an unknown registry raises", _context do
    unknown = unique_name("unknown")

    assert_raise ArgumentError, "unknown registry: #{inspect(unknown)}", fn ->
      Registry.info(unknown)
    end
  end
end

conformance "StartedElsewhere", subjects: :ours, variants: [[keys: :unique]] do
  test "an unknown registry that Elixir's Registry has started raises an error that says so",
       _context do
    name = unique_name("elsewhere")
    start_supervised!({Elixir.Registry, keys: :unique, name: name})

    message =
      "unknown registry: #{inspect(name)}. Elixir's Registry has started a registry of this " <>
        "name: add `alias Foundation.Registry` to the file that starts it"

    assert_raise ArgumentError, message, fn -> Registry.lookup(name, :key) end
    assert_raise ArgumentError, message, fn -> Registry.register(name, :key, 1) end
  end
end
