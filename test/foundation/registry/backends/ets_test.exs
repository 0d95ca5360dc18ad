defmodule Foundation.Registry.Backends.ETSTest do
  use Foundation.Case, async: true

  alias Foundation.Registry
  alias Foundation.Registry.Backends.ETS.Table

  # Keys that are patterns in a match specification.
  @odd_keys [%{}, %{a: 1}, %{a: 1, b: 2}, :_, :"$1", {:_, 1}, [:"$_", %{a: 1}]]

  defp start(options) do
    name = unique_name("ets")
    start_supervised!({Registry, [name: name, engine: :ets] ++ options}, id: name)
    {:ok, table} = Table.fetch(name)
    {name, table}
  end

  test "a claim on a key is ignored when its process is dead" do
    {registry, table} = start(keys: :unique)
    {:ok, _owner} = Registry.register(registry, %{a: 1}, :value)
    :ets.insert(table.claims, {Table.hash(%{a: 1}), dead_pid()})

    assert Registry.unregister(registry, %{a: 1}) == :ok
    assert Registry.lookup(registry, %{a: 1}) == []
    assert :ets.tab2list(table.claims) == []
  end

  test "exactly one of many racing callers removes or changes an entry under an odd key" do
    {registry, table} = start(keys: :unique)

    for key <- @odd_keys, round <- 1..20 do
      {:ok, _owner} = Registry.register(registry, key, round)
      [{id, ^round}] = Registry.Backends.ETS.entries(registry, key, self())

      tasks =
        for n <- 1..4, fun <- [:drop, :swap] do
          Task.async(fn ->
            case fun do
              :drop -> {:drop, Table.drop(table, key, [id])}
              :swap -> {:swap, Table.swap(table, key, self(), round, {:new, n})}
            end
          end)
        end

      results = Task.await_many(tasks, 30_000)
      assert Enum.count(results, &(&1 == {:drop, 1})) == 1
      Registry.unregister(registry, key)
    end
  end

  for keys <- [:unique, :duplicate] do
    test "removed entries and dead registrants of a #{keys} registry leave no row behind" do
      {registry, table} = start(keys: unquote(keys))
      workers = start_workers(5)

      for {worker, n} <- Enum.with_index(workers), key <- @odd_keys ++ [1, 1.0, "text"] do
        {:ok, _owner} = run(worker, fn -> Registry.register(registry, {n, key}, key) end)
      end

      [first | rest] = workers

      run(first, fn ->
        for key <- Registry.keys(registry, first), do: Registry.unregister(registry, key)
      end)

      assert Registry.keys(registry, first) == []
      for worker <- rest, do: kill(worker)
      kill(first)

      for part <- [table.entries, table.index, table.registrants, table.claims],
          do: eventually(fn -> :ets.tab2list(part) == [] end)
    end
  end

  for keys <- [:unique, :duplicate] do
    # The registry stops after a caller has found it by name. Its tables are gone when the caller
    # reads.
    test "every function of a #{keys} registry raises or returns unknown without its tables" do
      {registry, table} = start(keys: unquote(keys), max_entries: 10)
      :ok = stop_supervised(registry)
      Table.publish(table)
      on_exit(fn -> Table.withdraw(table) end)

      calls = [
        count: fn -> Registry.count(registry) end,
        info: fn -> Registry.info(registry) end,
        lookup: fn -> Registry.lookup(registry, :key) end,
        lookup_many: fn -> Registry.lookup_many(registry, [:key]) end,
        keys: fn -> Registry.keys(registry, self()) end,
        values: fn -> Registry.values(registry, :key, self()) end,
        match: fn -> Registry.match(registry, :key, :_) end,
        count_match: fn -> Registry.count_match(registry, :key, :_) end,
        select: fn -> Registry.select(registry, [{{:_, :_, :_}, [], [true]}]) end,
        count_select: fn -> Registry.count_select(registry, [{{:_, :_, :_}, [], [true]}]) end,
        stream: fn -> registry |> Registry.stream() |> Enum.to_list() end,
        broadcast: fn -> Registry.broadcast(registry, :key, :message) end,
        dispatch: fn -> Registry.dispatch(registry, :key, fn _ -> :never end) end,
        register: fn -> Registry.register(registry, :key, 1) end,
        register_for: fn -> Registry.register_for(registry, start_worker(), :key, 1) end,
        unregister: fn -> Registry.unregister(registry, :key) end,
        unregister_match: fn -> Registry.unregister_match(registry, :key, :_) end,
        meta: fn -> Registry.meta(registry, :key) end,
        put_meta: fn -> Registry.put_meta(registry, :key, 1) end,
        delete_meta: fn -> Registry.delete_meta(registry, :key) end
      ]

      unknown = %ArgumentError{message: "unknown registry: #{inspect(registry)}"}
      for {name, call} <- calls, do: assert({name, catch_error(call.())} == {name, unknown})
    end
  end

  test "register_for/4 for processes that die meanwhile leaves no row behind" do
    {registry, table} = start(keys: :unique)

    results =
      for n <- 1..300 do
        pid = spawn(fn -> receive do: (:go -> :ok) end)
        killer = Task.async(fn -> Process.exit(pid, :kill) end)
        result = Registry.register_for(registry, pid, n, nil)
        Task.await(killer, 30_000)
        if match?({:ok, _}, result), do: :registered, else: result
      end

    assert Enum.all?(results, &(&1 in [:registered, {:error, :not_alive}]))
    for part <- [table.entries, table.index], do: eventually(fn -> :ets.tab2list(part) == [] end)
  end

  test "a full table refuses a registration and counts the refusal" do
    {registry, _table} = start(keys: :duplicate, max_entries: 2)
    {:ok, _owner} = Registry.register(registry, "a", nil)
    {:ok, _owner} = Registry.register(registry, "a", nil)

    assert_raise SystemLimitError, fn ->
      Registry.register(registry, "a", nil)
    end

    assert %{size: 2, drops: 1} = Registry.info(registry)
    Registry.unregister(registry, "a")
    assert {:ok, _owner} = Registry.register(registry, "a", nil)
  end

  test "info/1 has the figures of the table" do
    {registry, _table} = start(keys: :duplicate)
    empty = Registry.info(registry)
    assert %{size: 0, keys: 0, processes: 0, drops: 0, engine: :ets} = empty

    for worker <- start_workers(3), n <- 1..700 do
      run(worker, fn -> Registry.register(registry, {:key, rem(n, 350)}, n) end)
    end

    assert %{size: 2_100, keys: 350, processes: 3} = full = Registry.info(registry)
    assert full.memory > empty.memory
  end

  test "compressed entries are returned unchanged" do
    {registry, table} = start(keys: :unique, compressed: true)
    assert :ets.info(table.entries, :compressed)
    value = String.duplicate("value", 1_000)
    {:ok, _owner} = Registry.register(registry, "key", value)
    assert Registry.lookup(registry, "key") == [{self(), value}]
    assert Registry.update_value(registry, "key", &(&1 <> "!")) == {value <> "!", value}
  end
end
