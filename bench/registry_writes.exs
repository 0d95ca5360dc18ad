Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.RegistryWrites do
  @moduledoc false
  # Registrations, unregistrations, and the deaths of registrants.

  alias Bench.{Row, Tables}

  @growth [1_000, 10_000, 100_000, 1_000_000]

  @ours Tables.ours()
  @theirs Tables.theirs()

  def rows do
    [
      %Row{
        name: :register_fresh,
        what: "a new process registers a key",
        theirs: "Registry",
        growth: @growth,
        sizes: [100_000],
        quick: [1_000],
        target: at_least(3),
        run: &register_fresh/2
      },
      %Row{
        name: :register_bulk,
        what: "register one of many keys",
        theirs: "Registry",
        growth: @growth,
        processes: 100_000,
        fills?: true,
        sizes: [100_000],
        quick: [1_000],
        target: at_least(6),
        run: &register_bulk/2
      },
      %Row{
        name: :unregister_many_keys,
        what: "unregister one of many keys of a process",
        theirs: "Registry",
        growth: @growth,
        sizes: [100_000, 1_000_000],
        quick: [1_000, 1_000_000],
        target: %{100_000 => at_least(5_000), 1_000_000 => at_most(6)},
        run: &unregister_many_keys/2
      },
      %Row{
        name: :mass_exit,
        what: "one of many processes exits",
        theirs: "Registry",
        growth: [1_000, 10_000, 100_000],
        fills?: true,
        sizes: [20_000],
        quick: [1_000],
        target: at_least(4),
        run: &mass_exit/2
      },
      %Row{
        name: :owner_of_many_exit,
        what: "a process exits, for each of its keys",
        theirs: "Registry",
        growth: @growth,
        fills?: true,
        sizes: [100_000],
        quick: [1_000],
        target: at_least(6),
        run: &owner_of_many_exit/2
      }
    ]
  end

  defp at_least(times), do: {:at_least, times}
  defp at_most(times), do: {:at_most, times}

  # New processes register one key each in a table of `size` entries. Each process times its one
  # call. The cost of the clock is timed in the same way and subtracted.
  defp register_fresh(size, context) do
    processes = if context.quick?, do: 100, else: 2_000

    Tables.with_entries([:ours, :theirs], Bench.keys(:integer, size), nil, fn _owner ->
      Bench.pinned(fn ->
        cost = fn side, round ->
          first = size + round * processes
          clock = fresh(processes, fn _n -> :ok end)
          taken = fresh(processes, &Tables.register(side, first + &1, nil))
          await_count(side, size)
          (taken - clock) / processes
        end

        Bench.pair(context, &cost.(:ours, &1), &cost.(:theirs, &1))
      end)
    end)
  end

  # All processes live until the last has registered, so no clean-up runs meanwhile.
  defp fresh(processes, fun) do
    caller = self()

    {pids, total} =
      Enum.map_reduce(1..processes, 0, fn n, total ->
        # Where the caller is pinned, its children must be pinned too.
        pid =
          :erlang.spawn_opt(
            fn ->
              started = :erlang.monotonic_time()
              fun.(n)
              send(caller, {:taken, self(), :erlang.monotonic_time() - started})
              Process.sleep(:infinity)
            end,
            scheduler: 1
          )

        receive do
          {:taken, ^pid, taken} -> {pid, total + taken}
        end
      end)

    Tables.stop(pids)
    System.convert_time_unit(total, :native, :nanosecond)
  end

  # A new process registers all keys, in a table that has just been started.
  defp register_bulk(size, context) do
    keys = Bench.keys(:integer, size)

    cost = fn side, _round ->
      Tables.with_tables([side], fn ->
        Bench.pinned(fn ->
          Bench.cost(context, keys, &Tables.register(side, &1, nil), fn ->
            Bench.check!("count", count(side), size)
          end)
        end)
      end)
    end

    Bench.pair(context, &cost.(:ours, &1), &cost.(:theirs, &1))
  end

  # A million keys: ours alone, against ours with a thousandth of them.
  defp unregister_many_keys(1_000_000 = size, %{growth?: false} = context) do
    small = div(size, 1_000)

    Tables.with_tables([:ours], :duplicate, fn ->
      many = holder(size)
      few = holder(small)

      result = Bench.pair(context, &unregister_in(many, &1), &unregister_in(few, &1), lower: true)

      Tables.stop([many, few])
      %{result | variant: "1/1000"}
    end)
  end

  # One process holds `size` entries under a duplicate key and unregisters one of its keys. It
  # registers that key again, untimed.
  defp unregister_many_keys(size, context) do
    Tables.with_tables([:ours, :theirs], :duplicate, fn ->
      Bench.pinned(fn ->
        for side <- [:ours, :theirs], key <- 1..size, do: Tables.register(side, key, nil)

        # Theirs takes milliseconds per call.
        Bench.pair(context, &unregister(:ours, size, 500, &1), &unregister(:theirs, size, 3, &1))
      end)
    end)
  end

  defp unregister(side, size, times, round) do
    keys = Enum.uniq(for n <- 1..times, do: rem((round * times + n) * 7_919, size) + 1)
    Bench.check!("count", count(side), size)
    taken = Bench.each(keys, &unregister(side, &1))
    Bench.check!("count", count(side), size - length(keys))
    for key <- keys, do: Tables.register(side, key, nil)
    taken
  end

  defp unregister(:ours, key), do: :ok = Foundation.Registry.unregister(@ours, key)
  defp unregister(:theirs, key), do: :ok = Registry.unregister(@theirs, key)

  defp holder(size) do
    caller = self()

    pid =
      :erlang.spawn_opt(
        fn ->
          me = self()
          for key <- 1..size, do: Tables.register(:ours, {me, key}, nil)
          send(caller, {:ready, me})
          serve(size)
        end,
        scheduler: 1,
        min_heap_size: 1_000_000
      )

    receive do
      {:ready, ^pid} -> pid
    end
  end

  defp serve(size) do
    receive do
      {:round, caller, round} ->
        keys = for n <- 1..500, do: {self(), rem((round * 500 + n) * 7_919, size) + 1}
        keys = Enum.uniq(keys)
        taken = Bench.each(keys, &unregister(:ours, &1))

        for key <- keys do
          Bench.check!("unregistered", Foundation.Registry.values(@ours, key, self()), [])
          Tables.register(:ours, key, nil)
        end

        send(caller, {:taken, taken})
        serve(size)
    end
  end

  defp unregister_in(holder, round) do
    send(holder, {:round, self(), round})

    receive do
      {:taken, taken} -> taken
    end
  end

  # From the first kill until the registry is empty.
  defp mass_exit(size, context) do
    exits(size, context, fn side ->
      Tables.owners(for n <- 1..size, do: fn -> Tables.register(side, n, nil) end)
    end)
  end

  defp owner_of_many_exit(size, context) do
    exits(size, context, fn side ->
      [Tables.owner(fn -> for n <- 1..size, do: Tables.register(side, n, nil) end)]
    end)
  end

  defp exits(size, context, start) do
    Tables.with_tables([:ours, :theirs], fn ->
      cost = fn side, _round ->
        pids = start.(side)
        Bench.check!("count", count(side), size)

        taken =
          Bench.time(fn ->
            Enum.each(pids, &Process.exit(&1, :kill))
            await_count(side, 0)
          end)

        Tables.stop(pids)
        taken / size
      end

      Bench.pinned(fn -> Bench.pair(context, &cost.(:ours, &1), &cost.(:theirs, &1)) end)
    end)
  end

  defp await_count(side, count), do: Bench.spin_until(fn -> count(side) == count end)

  defp count(:ours), do: Foundation.Registry.count(@ours)
  defp count(:theirs), do: Registry.count(@theirs)
end
