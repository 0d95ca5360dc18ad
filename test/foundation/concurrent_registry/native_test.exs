defmodule Foundation.ConcurrentRegistry.NativeTest do
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.ConcurrentRegistry, as: Table
  alias Foundation.{Native, Terms}

  defp fill(table) do
    for {name, term} <- Terms.all() do
      Table.put(table, term, name)
      Table.put(table, name, term)
    end
  end

  test "entries are freed when the table's process ends, despite references to the table" do
    alone(fn ->
      before = counts()
      owner = start_worker()
      table = run(owner, fn -> Table.new(engine: :native) end)
      fill(table)
      assert counts().terms > before.terms

      kill(owner)
      eventually(fn -> assert counts().terms == before.terms end)
      assert_raise ArgumentError, fn -> Table.size(table) end
    end)
  end

  test "entries are freed with the last reference to their table while its process lives" do
    alone(fn ->
      before = counts()
      owner = start_worker()
      run(owner, fn -> fill(Table.new(engine: :native)) end)
      run(owner, fn -> :erlang.garbage_collect() end)
      eventually(fn -> assert counts() == before end)
      assert Process.alive?(owner)
    end)
  end

  test "collected tables leave no memory behind" do
    alone(fn ->
      before = counts()
      owner = start_worker()
      run(owner, fn -> for _ <- 1..1_000, do: Table.new(engine: :native) end)
      assert counts().tables >= 1_000

      run(owner, fn -> :erlang.garbage_collect() end)
      eventually(fn -> assert counts() == before end)
    end)
  end

  test "a named table leaves no memory behind after an orderly stop" do
    alone(fn ->
      before = counts()

      for _round <- 1..3 do
        {:ok, owner} = Table.start_link(name: :named, engine: :native)
        fill(:named)
        assert counts().terms > before.terms
        :ok = GenServer.stop(owner)
      end

      eventually(fn ->
        for pid <- Process.list(), do: :erlang.garbage_collect(pid)
        assert counts() == before
      end)
    end)
  end

  test "overwritten, updated and deleted values are freed" do
    alone(fn ->
      before = counts()
      table = Table.new(engine: :native)
      all = Terms.all()

      for round <- 1..3, {name, term} <- all do
        Table.put(table, term, {round, term})
        Table.put_new(table, term, {:refused, term})
        Table.update(table, term, nil, &{:updated, &1})
        if round == 3, do: Table.delete(table, term), else: Table.put(table, name, term)
      end

      for {name, _term} <- all, do: Table.delete(table, name)
      assert Table.size(table) == 0
      eventually(fn -> assert counts().terms == before.terms end)
    end)
  end

  test "a walk visits a bounded part of the table per call and every entry once" do
    table = Table.new(engine: :native)
    for key <- 1..20_000, do: Table.put(table, key, key)

    parts =
      Stream.unfold(0, fn
        :done -> nil
        cursor -> Native.concurrent_table_walk(table.table, cursor)
      end)

    sizes = Enum.map(parts, &length/1)
    assert Enum.max(sizes) <= 600
    assert parts |> Enum.concat() |> Enum.sort() == for(key <- 1..20_000, do: {key, key})
  end

  test "cursors and versions that were never issued are harmless" do
    table = Table.new(engine: :native)
    for key <- 1..50, do: Table.put(table, key, key)

    for cursor <- [1, 2 ** 63, 2 ** 64 - 1] do
      assert {entries, _cursor} = Native.concurrent_table_walk(table.table, cursor)
      assert Enum.all?(entries, fn {key, value} -> key == value end)
    end

    for version <- [0, 1, 2 ** 64 - 1] do
      refute Native.concurrent_table_replace(table.table, 1, version, :stale)
      refute Native.concurrent_table_replace(table.table, :absent, version, :stale)
    end

    assert Table.get(table, 1) == 1
    assert Table.size(table) == 50
  end
end
