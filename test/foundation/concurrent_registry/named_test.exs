defmodule Foundation.ConcurrentRegistry.NamedTest do
  use Foundation.Case, async: true

  import ExUnit.CaptureLog

  alias Foundation.ConcurrentRegistry, as: Table
  alias Foundation.ConcurrentTable.Named
  alias Foundation.Registry.TableHolder

  for engine <- [:native, :ets] do
    describe "#{engine}:" do
      setup do
        name = unique_name("table")
        options = [name: name, engine: unquote(engine)]
        owner = start_supervised!({Table, options})
        %{name: name, owner: owner, options: options}
      end

      test "every function takes the name", %{name: name} do
        assert Table.put(name, :key, 1) == :ok
        assert Table.put_new(name, :key, 2) == false
        assert Table.put_new(name, :other, 2) == true
        assert Table.get(name, :key) == 1
        assert Table.get(name, :absent) == nil
        assert Table.get(name, :absent, :default) == :default
        assert Table.update(name, :key, 0, &(&1 + 1)) == 2
        assert Table.size(name) == 2
        assert Enum.sort(Table.stream(name)) == [key: 2, other: 2]
        assert Table.delete(name, :other) == :ok
        assert Table.size(name) == 1
      end

      test "every process uses the table by its name", %{name: name} do
        worker = start_worker()
        run(worker, fn -> Table.put(name, :key, {:of, worker}) end)
        kill(worker)
        assert Table.get(name, :key) == {:of, worker}
      end

      test "the owner has the table's name", %{name: name, owner: owner} do
        assert Process.whereis(name) == owner
      end

      test "a second start under the name fails", %{owner: owner, options: options} do
        assert Table.start_link(options) == {:error, {:already_started, owner}}
      end

      test "a table whose owner is killed keeps its entries, and the next owner has them", %{
        name: name,
        owner: owner
      } do
        Table.put(name, :key, [1, %{a: "value"}])
        kill(owner)
        assert Table.get(name, :key) == [1, %{a: "value"}]
        assert Table.put(name, :meanwhile, 2) == :ok
        next = eventually(fn -> Process.whereis(name) end)
        assert next != owner
        assert Table.size(name) == 2
        kill(next)
        eventually(fn -> Process.whereis(name) not in [nil, next] end)
        assert Enum.sort(Table.stream(name)) == [key: [1, %{a: "value"}], meanwhile: 2]
      end

      test "a handle and an update under way survive a kill of the owner", %{
        name: name,
        owner: owner
      } do
        Table.put(name, :key, 1)

        assert Table.update(name, :key, 0, fn value ->
                 kill(owner)
                 eventually(fn -> Process.whereis(name) not in [nil, owner] end)
                 value + 1
               end) == 2

        assert Table.get(name, :key) == 2
      end

      test "an orderly stop destroys the table, and its name is unknown", %{
        name: name,
        options: options
      } do
        Table.put(name, :key, 1)
        {:ok, table} = Named.fetch(name)
        :ok = stop_supervised(name)
        assert_unknown(name)
        assert_raise ArgumentError, fn -> Table.size(table.handle) end
        refute Named.there?(table)

        start_supervised!({Table, options})
        assert Table.size(name) == 0
      end

      test "an update whose function ends the table raises for an unknown table", %{name: name} do
        Table.put(name, :key, 1)

        assert_raise ArgumentError, "unknown concurrent table: #{inspect(name)}", fn ->
          Table.update(name, :key, 0, fn _value -> stop_supervised(name) end)
        end
      end

      test "an ArgumentError of an update's function is raised as it is", %{name: name} do
        Table.put(name, :key, 1)

        assert_raise ArgumentError, "mine", fn ->
          Table.update(name, :key, 0, fn _value -> raise ArgumentError, "mine" end)
        end
      end

      test "a table without an owner is destroyed in time" do
        name = abandoned(engine: unquote(engine), adopt_timeout: 1)
        eventually(fn -> Named.fetch(name) == :error end)
        assert_unknown(name)
      end

      test "a table with adopt_timeout: :infinity waits for its next owner" do
        name = abandoned(engine: unquote(engine), adopt_timeout: :infinity)
        # The holder has heard of the death before it answers.
        :sys.get_state(TableHolder)
        assert Table.get(name, :key) == 1
        start_supervised!({Table, name: name, engine: unquote(engine)}, id: :next)
        assert Table.get(name, :key) == 1
      end

      test "an owner of the other engine starts with an empty table, and logs a warning" do
        name = abandoned(engine: unquote(engine))
        {:ok, old} = Named.fetch(name)
        other = if unquote(engine) == :native, do: :ets, else: :native

        log =
          capture_log(fn -> start_supervised!({Table, name: name, engine: other}, id: :next) end)

        assert log =~ "was started on the engine #{inspect(other)}"
        assert Table.size(name) == 0
        refute Named.there?(old)
      end

      test "unknown messages, casts and calls do not end the owner", %{name: name, owner: owner} do
        send(owner, :unknown)
        GenServer.cast(owner, :unknown)
        assert GenServer.call(owner, :unknown) == {:error, :unknown_call}
        assert Supervisor.which_children(owner) == []
        assert Process.whereis(name) == owner
      end
    end
  end

  test "start_link/1 refuses options that are unknown, wrong or missing" do
    for {options, message} <- [
          {[], ~r/expected :name of the options of Foundation.ConcurrentRegistry.start_link\/1/},
          {[name: "table"], ~r/expected :name .* to be an atom, got: "table"/},
          {[name: nil], ~r/expected :name .* to be an atom, got: nil/},
          {[name: :table, engine: :sqlite], ~r/expected :engine .* got: :sqlite/},
          {[name: :table, engin: :ets], ~r/got: :engin, did you mean :engine\?/},
          {[name: :table, adopt_timeout: -1], ~r/expected :adopt_timeout .* got: -1/},
          {:table, ~r/to be a keyword list, got: :table/}
        ] do
      assert_raise ArgumentError, message, fn -> Table.start_link(options) end
    end
  end

  test "the child specification's id is the name" do
    assert %{id: MyApp.Table, type: :worker} = Table.child_spec(name: MyApp.Table)
  end

  test "functions raise for an unknown name and for what is neither a table nor a name" do
    assert_unknown(unique_name("table"))
    assert_unknown(nil)

    for wrong <- ["table", 1, {:table, 1}, self(), %{}, make_ref()] do
      message = "expected a concurrent table or the name of one, got: #{inspect(wrong)}"
      for use <- uses(), do: assert_raise(ArgumentError, message, fn -> use.(wrong) end)
    end
  end

  test "update/4 refuses what is no function of one argument" do
    table = Table.new()

    for wrong <- [fn -> 1 end, :function, nil] do
      message = "expected a function of arity 1, got: #{inspect(wrong)}"
      assert_raise ArgumentError, message, fn -> Table.update(table, :key, 1, wrong) end
      assert_raise ArgumentError, message, fn -> Table.update(:a_name, :key, 1, wrong) end
    end

    assert Table.size(table) == 0
  end

  defp assert_unknown(name) do
    message = "unknown concurrent table: #{inspect(name)}"
    for use <- uses(), do: assert_raise(ArgumentError, message, fn -> use.(name) end)
  end

  defp uses do
    [
      &Table.get(&1, :key),
      &Table.get(&1, :key, 1),
      &Table.put(&1, :key, 1),
      &Table.put_new(&1, :key, 1),
      &Table.update(&1, :key, 1, fn x -> x end),
      &Table.delete(&1, :key),
      &Table.size/1,
      &Table.stream/1
    ]
  end

  # The name of a table with one entry whose owner has been killed.
  defp abandoned(options) do
    name = unique_name("table")
    starter = start_worker()

    owner =
      run(starter, fn ->
        {:ok, owner} = Table.start_link([name: name] ++ options)
        Process.unlink(owner)
        owner
      end)

    Table.put(name, :key, 1)
    kill(owner)
    name
  end
end
