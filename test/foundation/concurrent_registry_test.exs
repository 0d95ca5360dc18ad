defmodule Foundation.ConcurrentRegistryTest do
  use Foundation.Case, async: true

  alias Foundation.ConcurrentRegistry, as: Table
  alias Foundation.Terms

  doctest Foundation.ConcurrentRegistry

  for engine <- [:native, :ets] do
    describe "#{engine}:" do
      setup do: %{table: Table.new(engine: unquote(engine))}

      test "a key of any type is set, read, updated and removed without a change to others",
           %{table: table} do
        terms = for {_name, term} <- Terms.all(), do: term

        for {key, index} <- Enum.with_index(terms),
            do: assert(Table.put(table, key, index) == :ok)

        assert Table.size(table) == length(terms)

        for {key, index} <- Enum.with_index(terms) do
          refute Table.put_new(table, key, :other)
          assert Table.update(table, key, :default, &(&1 + 1000)) == index + 1000
        end

        for {key, index} <- Enum.with_index(terms) do
          assert Table.get(table, key) == index + 1000
        end

        visited = Map.new(Table.stream(table))
        assert map_size(visited) == length(terms)
        for {key, index} <- Enum.with_index(terms), do: assert(visited[key] == index + 1000)

        for key <- terms, do: assert(Table.delete(table, key) == :ok)
        assert Table.size(table) == 0
      end

      test "nearly equal keys are different keys", %{table: table} do
        for group <- Terms.near_misses() do
          for {key, index} <- Enum.with_index(group), do: Table.put(table, key, index)

          for {key, index} <- Enum.with_index(group) do
            assert Table.update(table, key, nil, &{:updated, &1}) == {:updated, index}
          end

          for {key, index} <- Enum.with_index(group) do
            assert Table.get(table, key) == {:updated, index}
          end

          for key <- group, do: Table.delete(table, key)
          assert Table.size(table) == 0
        end
      end

      # An update whose compare-and-swap never succeeds would loop endlessly.
      test "0.0 and -0.0 are compared by ===, in an update too", %{table: table} do
        [zero, minus_zero] = Terms.zeros()

        for {one, other} <- [
              {zero, minus_zero},
              {minus_zero, zero},
              {%{in: zero}, %{in: minus_zero}}
            ] do
          Table.put(table, one, 1)
          expected = if one === other, do: 2, else: :none
          assert Table.update(table, other, :none, &(&1 + 1)) == expected
          Table.delete(table, one)
          Table.delete(table, other)
        end
      end

      test "a value of any type is returned unchanged", %{table: table} do
        for {_name, value} <- Terms.all() do
          Table.put(table, :put, value)
          assert Table.get(table, :put) === value
          assert Table.update(table, :put, nil, fn ^value -> {:v, value} end) === {:v, value}
          assert Table.get(table, :put) === {:v, value}
          assert Table.update(table, make_ref(), value, &raise(inspect(&1))) === value
        end
      end

      test "a term that takes long to copy works as a key and as a value", %{table: table} do
        heavy = Enum.to_list(1..20_000)
        assert Table.put(table, heavy, heavy) == :ok
        refute Table.put_new(table, heavy, 1)
        assert Table.get(table, heavy) == heavy
        assert Table.update(table, heavy, nil, &[0 | &1]) == [0 | heavy]
        assert Enum.to_list(Table.stream(table)) == [{heavy, [0 | heavy]}]
        assert Table.delete(table, heavy) == :ok
        assert Table.size(table) == 0
      end

      test "false and nil are stored as values", %{table: table} do
        Table.put(table, :key, nil)
        assert Table.get(table, :key, :default) == nil
        refute Table.put_new(table, :key, 1)
        Table.put(table, :key, false)
        assert Table.get(table, :key, :default) == false
        assert Table.update(table, :key, :default, &not/1) == true
      end

      test "get of an absent key returns the default, and delete returns :ok", %{table: table} do
        assert Table.get(table, :key) == nil
        assert Table.get(table, :key, :default) == :default
        assert Table.delete(table, :key) == :ok
        assert Table.size(table) == 0
      end

      test "update of an absent key sets the default and does not run the function",
           %{table: table} do
        assert Table.update(table, :key, 7, fn _ -> flunk("ran") end) == 7
        assert Table.get(table, :key) == 7
      end

      test "a sequence of operations has the results that it has on a map", %{table: table} do
        keys = [1, 1.0, "1", {:_, 1}, {2, 1}, %{}, %{a: 1}]

        Enum.reduce(1..5_000, %{}, fn n, model ->
          key = Enum.random(keys)

          model =
            case :rand.uniform(6) do
              1 ->
                Table.put(table, key, n)
                Map.put(model, key, n)

              2 ->
                assert Table.put_new(table, key, n) == not Map.has_key?(model, key)
                Map.put_new(model, key, n)

              3 ->
                Table.delete(table, key)
                Map.delete(model, key)

              4 ->
                new = Map.update(model, key, n, &(&1 + n))
                assert Table.update(table, key, n, &(&1 + n)) == new[key]
                new

              5 ->
                assert Table.get(table, key, :none) == Map.get(model, key, :none)
                model

              6 ->
                assert table |> Table.stream() |> Map.new() == model
                model
            end

          assert Table.size(table) == map_size(model)
          model
        end)
      end

      test "no concurrent update is lost, for a key of any type", %{table: table} do
        for key <- [:key, {:"$1", :_}, %{a: 1}] do
          1..8
          |> Enum.map(fn _ ->
            Task.async(fn -> for _ <- 1..1_000, do: Table.update(table, key, 1, &(&1 + 1)) end)
          end)
          |> Task.await_many(60_000)

          assert Table.get(table, key) == 8_000
        end
      end

      test "every concurrent update returns a different value", %{table: table} do
        returned =
          1..8
          |> Enum.map(fn _ ->
            Task.async(fn -> for _ <- 1..500, do: Table.update(table, :key, 1, &(&1 + 1)) end)
          end)
          |> Task.await_many(60_000)
          |> Enum.concat()

        assert Enum.sort(returned) == Enum.to_list(1..4_000)
      end

      test "an update retries after a concurrent put or delete", %{table: table} do
        Table.put(table, :key, 1)
        parent = self()

        task =
          Task.async(fn ->
            Table.update(table, :key, :default, fn value ->
              send(parent, {:read, value})
              receive do: (:go -> {:new, value})
            end)
          end)

        assert_receive {:read, 1}
        # Writing the same value is a write too.
        Table.put(table, :key, 1)
        send(task.pid, :go)
        assert_receive {:read, 1}
        Table.put(table, :key, 2)
        send(task.pid, :go)
        assert_receive {:read, 2}
        Table.delete(table, :key)
        send(task.pid, :go)
        assert Task.await(task, 30_000) == :default
        assert Table.get(table, :key) == :default
      end

      test "exactly one of many racing put_new calls succeeds", %{table: table} do
        for key <- 1..200 do
          winners =
            1..4
            |> Enum.map(fn n -> Task.async(fn -> {n, Table.put_new(table, key, n)} end) end)
            |> Task.await_many(30_000)
            |> Enum.filter(&elem(&1, 1))

          assert [{winner, true}] = winners
          assert Table.get(table, key) == winner
        end
      end

      test "an update function that raises, exits or is killed has no effect and blocks no caller",
           %{table: table} do
        Table.put(table, :key, 1)

        assert_raise RuntimeError, "no", fn ->
          Table.update(table, :key, 0, fn _ -> raise "no" end)
        end

        assert catch_throw(Table.update(table, :key, 0, fn _ -> throw(:no) end)) == :no

        parent = self()

        holder =
          spawn(fn ->
            Table.update(table, :key, 0, fn _ ->
              send(parent, :inside)
              receive do: (:never -> 0)
            end)
          end)

        assert_receive :inside
        assert Table.update(table, :key, 0, &(&1 + 1)) == 2
        kill(holder)
        assert Table.update(table, :key, 0, &(&1 + 1)) == 3
      end

      test "an update function may call the same table", %{table: table} do
        Table.put(table, :a, 1)
        assert Table.update(table, :b, 0, & &1) == 0

        assert Table.update(table, :b, 0, fn b ->
                 Table.update(table, :a, 0, &(&1 + 1)) + b
               end) == 2
      end

      test "stream is lazy and can be halted", %{table: table} do
        for n <- 1..1_000, do: Table.put(table, n, n)
        stream = Table.stream(table)
        Table.put(table, :late, 1)
        assert Enum.count(stream) == 1_001
        assert length(Enum.take(stream, 3)) == 3
        assert Enum.count(stream) == 1_001
      end

      test "stream returns each key present throughout exactly once during concurrent writes",
           %{table: table} do
        stay = MapSet.new(1..3_000)
        for n <- stay, do: Table.put(table, n, 0)

        writer =
          Task.async(fn ->
            Stream.iterate(1, &(&1 + 1))
            |> Enum.reduce_while(nil, fn n, _ ->
              # The table grows and shrinks while the remaining entries are updated.
              for k <- 1..200, do: Table.put(table, {:come, n, k}, k)
              for k <- 1..20, do: Table.update(table, rem(n * 20 + k, 3_000) + 1, 0, &(&1 + 1))
              if n > 30, do: for(k <- 1..200, do: Table.delete(table, {:come, n - 30, k}))

              receive do
                :stop -> {:halt, n}
              after
                0 -> {:cont, nil}
              end
            end)
          end)

        for _ <- 1..30 do
          keys = for {key, _value} <- Table.stream(table), do: key
          assert length(keys) == length(Enum.uniq(keys))
          assert MapSet.subset?(stay, MapSet.new(keys))
        end

        send(writer.pid, :stop)
        assert Task.await(writer, 30_000) > 0
      end

      test "a table ends with the process that made it, and its entries are freed" do
        owner = start_worker()
        table = run(owner, fn -> Table.new(engine: unquote(engine)) end)
        other = start_worker()
        run(other, fn -> Table.put(table, :key, 1) end)
        kill(other)
        assert Table.get(table, :key) == 1
        kill(owner)

        for use <- [
              &Table.get(&1, :key),
              &Table.put(&1, :key, 1),
              &Table.put_new(&1, :key, 1),
              &Table.update(&1, :key, 1, fn x -> x end),
              &Table.delete(&1, :key),
              &Table.size/1,
              &Enum.to_list(Table.stream(&1))
            ] do
          eventually(fn -> assert_raise ArgumentError, fn -> use.(table) end end)
        end
      end
    end
  end

  test "invalid options raise" do
    assert_raise ArgumentError, ~r/expected :engine of the options .* got: :sqlite/, fn ->
      Table.new(engine: :sqlite)
    end

    assert_raise ArgumentError, ~r/got: :engin, did you mean :engine\?/, fn ->
      Table.new(engin: :ets)
    end
  end

  test "a table without the :engine option uses the application's engine" do
    for table <- [Table.new(), Table.new(engine: nil)] do
      assert table.backend == Table.new(engine: Foundation.engine()).backend
    end
  end

  test "two tables share no entries" do
    one = Table.new()
    two = Table.new()
    Table.put(one, :key, 1)
    assert Table.get(two, :key) == nil
  end
end
