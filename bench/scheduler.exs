Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.Scheduler do
  @moduledoc false
  # How long one native call keeps a normal scheduler, at worst, in a large table.
  #
  # Each call is timed by itself, and the longest counts. One that took over a
  # millisecond counts only if the VM saw its process on a scheduler for so long
  # (`long_schedule`): otherwise it was on a dirty scheduler, or the machine was busy. For what
  # runs in no call, the clean-up in a process that exits, there is only what the VM
  # saw, in whole milliseconds. Of three times the best counts: what a call always does, it
  # does each time.

  alias Bench.{Result, Row, Tables}
  alias Foundation.Native

  @limit_ns 1_000_000

  def rows do
    [
      %Row{
        name: :scheduler,
        sizes: [1_000_000],
        quick: [20_000],
        target: {:at_most, 1},
        run: &scheduler/2
      }
    ]
  end

  defp scheduler(size, context) do
    # Another engine makes no native calls.
    if native?() do
      times = if context.quick?, do: 1, else: 3
      {:ok, seen} = Agent.start_link(fn -> %{} end)
      watcher = spawn_link(fn -> watch(seen) end)
      before = :erlang.system_monitor(watcher, long_schedule: 1)

      runs = for _time <- 1..times, do: unique(size, seen) ++ duplicate(size, seen)

      restore(before)
      Agent.stop(seen)

      Enum.zip_with(runs, fn [{name, _longest} | _] = same ->
        longest = same |> Enum.map(&elem(&1, 1)) |> Enum.min()
        %Result{variant: name, ours: longest, theirs: nil, ratio: longest / @limit_ns}
      end)
    else
      []
    end
  end

  defp native? do
    Tables.with_tables([:ours], fn -> Native.registry_config(Tables.ours()) != nil end)
  end

  defp restore(:undefined), do: :erlang.system_monitor(:undefined)
  defp restore({pid, options}), do: :erlang.system_monitor(pid, options)

  defp watch(seen) do
    receive do
      {:monitor, pid, :long_schedule, info} ->
        Agent.update(
          seen,
          &Map.update(&1, pid, info[:timeout], fn ms -> max(ms, info[:timeout]) end)
        )

        watch(seen)
    end
  end

  # n keys of one process, each once.
  defp unique(size, seen) do
    Tables.with_tables([:ours], :unique, fn ->
      table = Tables.ours()
      some = Bench.shuffle(Enum.take_every(1..size, max(1, div(size, 100_000))))

      in_holder(seen, fn measure ->
        [
          measure.("register", fn call ->
            Enum.each(1..size, &call.(fn -> Native.registry_register(table, &1, nil) end))
          end),
          measure.("lookup", fn call ->
            Enum.each(some, &call.(fn -> Native.registry_lookup(table, &1) end))
          end),
          measure.("whereis", fn call ->
            Enum.each(some, &call.(fn -> Native.registry_whereis(table, &1) end))
          end),
          measure.("lookup_many", fn call -> lookup_many(table, Enum.to_list(1..size), call) end),
          measure.("keys", fn call ->
            chunks(0, call, &Native.registry_keys(table, self(), &1))
          end),
          measure.("walk", fn call -> chunks(0, call, &Native.registry_walk(table, &1)) end),
          measure.("info", fn call ->
            Enum.each(1..100, fn _n -> call.(fn -> Native.registry_info(table) end) end)
          end),
          measure.("count", fn call ->
            Enum.each(1..100, fn _n -> call.(fn -> Native.registry_count(table) end) end)
          end),
          measure.("replace", fn call ->
            Enum.each(some, &call.(fn -> Native.registry_replace(table, &1, self(), nil, 1) end))
          end),
          measure.("unregister", fn call ->
            Enum.each(some, &call.(fn -> Native.registry_unregister(table, &1) end))
          end)
        ]
      end) ++
        exit_of("exit", seen, fn ->
          Enum.each(1..size, &Native.registry_register(table, &1, nil))
        end)
    end)
  end

  # n entries of one process under one key.
  defp duplicate(size, seen) do
    Tables.with_tables([:ours], :duplicate, fn ->
      table = Tables.ours()
      sink = spawn(fn -> sink() end)

      results =
        in_holder(seen, fn measure ->
          [
            measure.("register_dup", fn call ->
              Enum.each(1..size, &call.(fn -> Native.registry_register(table, :key, &1) end))
            end),
            measure.("lookup_dup", fn call ->
              call.(fn -> Native.registry_lookup(table, :key) end)
            end),
            measure.("walk_key", fn call ->
              chunks(0, call, &Native.registry_walk_key(table, :key, &1))
            end),
            measure.("values_dup", fn call ->
              call.(fn -> Native.registry_values(table, :key, self()) end)
            end),
            measure.("unregister_dup", fn call ->
              call.(fn -> Native.registry_unregister(table, :key) end)
            end)
          ]
        end)

      fan_out = fn call ->
        chunks(0, call, &Native.registry_broadcast(table, :sink, :message, &1))
      end

      for n <- 1..size,
          do: {:ok, _owner} = Foundation.Registry.register_for(table, sink, :sink, n)

      broadcast = in_holder(seen, fn measure -> [measure.("broadcast", fan_out)] end)
      Tables.stop([sink])

      results ++
        broadcast ++
        exit_of("exit_dup", seen, fn ->
          Enum.each(1..size, &Native.registry_register(table, :key, &1))
        end)
    end)
  end

  defp sink do
    receive do
      :message -> sink()
    end
  end

  # Runs what is measured in one process, which owns the entries.
  defp in_holder(seen, fun) do
    Bench.pinned(fn ->
      fun.(fn name, run ->
        forget(seen, self())
        {short, long} = timed(run)
        {name, if(long > 0 and saw(seen, self()) > 0, do: long, else: short)}
      end)
    end)
  end

  # The longest call under the limit, and the longest of the others.
  defp timed(run) do
    longest = :atomics.new(2, [])

    run.(fn call ->
      started = :erlang.monotonic_time()
      result = call.()
      taken = System.convert_time_unit(:erlang.monotonic_time() - started, :native, :nanosecond)
      index = if taken < @limit_ns, do: 1, else: 2
      if taken > :atomics.get(longest, index), do: :atomics.put(longest, index, taken)
      result
    end)

    {:atomics.get(longest, 1), :atomics.get(longest, 2)}
  end

  defp exit_of(name, seen, fill) do
    pid = Tables.owner(fill)
    forget(seen, pid)
    Tables.stop([pid])
    Bench.spin_until(fn -> Foundation.Registry.count(Tables.ours()) == 0 end)
    [{name, saw(seen, pid) * 1_000_000}]
  end

  defp forget(seen, pid), do: Agent.update(seen, &Map.delete(&1, pid))

  # The VM tells after the process has left the scheduler.
  defp saw(seen, pid) do
    Process.sleep(20)
    Agent.get(seen, &Map.get(&1, pid, 0))
  end

  defp lookup_many(_table, [], _call), do: :ok

  defp lookup_many(table, keys, call) do
    {_found, rest} = call.(fn -> Native.registry_lookup_many(table, keys) end)
    lookup_many(table, rest, call)
  end

  defp chunks(cursor, call, fun) do
    case call.(fn -> fun.(cursor) end) do
      {_chunk, :done} -> :ok
      {_chunk, cursor} -> chunks(cursor, call, fun)
    end
  end
end
