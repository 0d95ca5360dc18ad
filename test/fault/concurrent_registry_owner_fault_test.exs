defmodule Foundation.ConcurrentRegistryOwnerFaultTest do
  # Not async: kills the holder of the tables, which the whole application shares.
  use Foundation.Case, async: false

  alias Foundation.ConcurrentRegistry, as: Table
  alias Foundation.ConcurrentTable.Named
  alias Foundation.{Load, RegistrySupervisor}
  alias Foundation.Registry.TableHolder

  @kills 60

  for engine <- [:native, :ets] do
    describe "#{engine}:" do
      setup do
        name = unique_name("table")

        # Of its own, which takes any number of kills.
        start_supervised!(%{
          id: :tables,
          type: :supervisor,
          start:
            {Supervisor, :start_link,
             [
               [{Table, name: name, engine: unquote(engine)}],
               [strategy: :one_for_one, max_restarts: 1_000]
             ]}
        })

        %{name: name}
      end

      test "kills of the owner under load lose no entry and fail no call", %{name: name} do
        load = load(name)

        for kill <- 1..@kills do
          Load.progress(load, 100)
          name |> alive() |> kill()
          # Every other one dies in the middle of its adoption, or right after it.
          if rem(kill, 2) == 0, do: eventually(fn -> adopted?(name) end)
        end

        check(name, Load.stop(load))
      end

      # An ETS table cannot do without both at once: that is two faults.
      test "kills of the owner and of the tables' holder in turn lose no entry", %{name: name} do
        load = load(name)

        for _kill <- 1..20 do
          Load.progress(load, 100)
          holder = alive(TableHolder)
          kill(holder)
          eventually(fn -> Process.whereis(TableHolder) not in [nil, holder] end)
          eventually(fn -> follows?(name) end)
          Load.progress(load, 100)
          name |> alive() |> kill()
          eventually(fn -> adopted?(name) end)
        end

        check(name, Load.stop(load))
      end

      test "a table whose owner dies while the holder is away is adopted or destroyed in time", %{
        name: name
      } do
        Table.put(name, :key, 1)
        :ok = Supervisor.terminate_child(RegistrySupervisor, TableHolder)
        name |> alive() |> kill()

        # Without its heir an ETS table ends with its owner.
        if unquote(engine) == :native, do: assert(Table.get(name, :key) == 1)

        {:ok, _pid} = Supervisor.restart_child(RegistrySupervisor, TableHolder)
        eventually(fn -> adopted?(name) end)
        assert Table.size(name) == if(unquote(engine) == :native, do: 1, else: 0)
      end
    end
  end

  # The native table needs no holder: the next one finds it without its owner.
  test "native: a new holder destroys a table that lost its owner before" do
    name = unique_name("table")
    starter = start_worker()
    options = [name: name, engine: :native, adopt_timeout: 1]

    owner =
      run(starter, fn ->
        {:ok, owner} = Table.start_link(options)
        Process.unlink(owner)
        owner
      end)

    :ok = Supervisor.terminate_child(RegistrySupervisor, TableHolder)
    kill(owner)
    assert Table.size(name) == 0
    {:ok, _pid} = Supervisor.restart_child(RegistrySupervisor, TableHolder)
    eventually(fn -> Named.fetch(name) == :error end)
  end

  # Each worker has keys of its own and knows what is under them; all count in one key.
  defp load(name) do
    for key <- 1..500, do: Table.put(name, {:stays, key}, key)
    Load.start(for worker <- 1..4, do: fn state -> work(name, worker, state || {0, %{}}) end)
  end

  defp work(name, worker, {count, model}) do
    key = :rand.uniform(500)
    assert Table.get(name, {:stays, key}) == key
    Table.update(name, :count, 1, &(&1 + 1))
    own = {worker, :rand.uniform(50)}

    model =
      case model do
        %{^own => value} ->
          assert Table.get(name, own) == value
          refute Table.put_new(name, own, :other)
          :ok = Table.delete(name, own)
          assert Table.get(name, own, :absent) == :absent
          Map.delete(model, own)

        %{} ->
          assert Table.put_new(name, own, count)
          assert Table.update(name, own, nil, &{:updated, &1}) == {:updated, count}
          Map.put(model, own, {:updated, count})
      end

    if rem(count, 50) == 0 do
      stay = for {{:stays, key}, key} <- Table.stream(name), do: key
      assert Enum.sort(stay) == Enum.to_list(1..500)
    end

    {count + 1, model}
  end

  defp check(name, states) do
    counts = for {count, _model} <- states, do: count
    assert Table.get(name, :count) == Enum.sum(counts)
    stay = for key <- 1..500, do: {{:stays, key}, key}
    own = for {_count, model} <- states, entry <- model, do: entry
    all = [{:count, Enum.sum(counts)} | stay ++ own]
    assert Enum.sort(Table.stream(name)) == Enum.sort(all)
  end

  defp alive(name), do: eventually(fn -> Process.whereis(name) end)

  defp adopted?(name) do
    case Named.fetch(name) do
      {:ok, %{owner: owner}} -> owner == Process.whereis(name)
      :error -> false
    end
  end

  # Whether the owner has found the new holder.
  defp follows?(name) do
    {:ok, %{kind: kind, entries: entries}} = Named.fetch(name)
    kind == :native or :ets.info(entries, :heir) == Process.whereis(TableHolder)
  end
end
