defmodule Foundation.ConcurrentRegistryFaultTest do
  use Foundation.Case, async: true

  alias Foundation.ConcurrentRegistry, as: Table

  for engine <- [:native, :ets] do
    test "#{engine}: a call during the table's end answers correctly or raises" do
      for _round <- 1..20 do
        owner = start_worker()
        table = run(owner, fn -> Table.new(engine: unquote(engine)) end)
        for key <- 1..500, do: Table.put(table, key, %{key => key})
        parent = self()

        users =
          for user <- 1..4 do
            Task.async(fn ->
              send(parent, {:uses, user})
              use_until_gone(table, user)
            end)
          end

        for user <- 1..4, do: assert_receive({:uses, ^user})
        kill(owner)
        assert Enum.uniq(Task.await_many(users, 60_000)) == [:gone]
      end
    end

    test "#{engine}: update/4 raises when the table ends while its function runs" do
      {owner, table} = owned_table(unquote(engine), key: 1)

      assert_raise ArgumentError, fn ->
        Table.update(table, :key, 1, fn 1 -> end_table(owner, table) end)
      end
    end

    test "#{engine}: a stream raises when the table ends between two of its chunks" do
      {owner, table} = owned_table(unquote(engine), for(key <- 1..2_000, do: {key, key}))

      assert_raise ArgumentError, fn ->
        Enum.reduce(Table.stream(table), owner, fn _entry, owner ->
          if owner, do: end_table(owner, table)
          nil
        end)
      end
    end
  end

  defp owned_table(engine, entries) do
    owner = start_worker()
    table = run(owner, fn -> Table.new(engine: engine) end)
    for {key, value} <- entries, do: Table.put(table, key, value)
    {owner, table}
  end

  # Ends the table, and returns when readers can see that.
  defp end_table(owner, table) do
    kill(owner)
    eventually(fn -> ended?(table) end)
  end

  defp ended?(table) do
    Table.size(table)
    false
  rescue
    ArgumentError -> true
  end

  # Each user writes keys of its own, and reads keys that nobody changes.
  defp use_until_gone(table, user) do
    for key <- 1..500 do
      assert Table.get(table, key) == %{key => key}
      own = {user, key}
      assert Table.put(table, own, [own]) == :ok
      assert Table.update(table, own, nil, &[own | &1]) == [own, own]
      assert Table.delete(table, own) == :ok
    end

    keys = for {key, _value} <- Table.stream(table), is_integer(key), do: key
    assert Enum.sort(keys) == Enum.to_list(1..500)
    use_until_gone(table, user)
  rescue
    ArgumentError -> :gone
  end
end
