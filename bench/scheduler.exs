Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.Scheduler do
  @moduledoc false
  # How long one native call keeps a normal scheduler, at worst, in a large table.
  #
  # Each call is timed by itself, and the longest counts. One of over a millisecond counts
  # only if the VM saw its process on a scheduler for so long (`long_schedule`):
  # otherwise it was on a dirty scheduler. And it does not count if the system took
  # the scheduler's thread off its processor about then. Of three times the median
  # counts. Empty means that no call was on a normal scheduler for a millisecond and none
  # was short: all of it was on a dirty one. For what runs in no call, the clean-up in a process that
  # exits, there is only what the VM saw, in whole milliseconds; empty means nothing.

  alias Bench.{Result, Row, Tables}
  alias Foundation.Native

  @limit_ns 1_000_000

  # How many calls are made between two looks at how often the thread was interrupted.
  @group 256

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
        longest = same |> Enum.map(&elem(&1, 1)) |> Bench.median()
        seen = if longest > 0, do: longest
        %Result{variant: name, ours: seen, theirs: nil, ratio: longest / @limit_ns}
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

  # The longest call under the limit, and the longest of the others that was not
  # interrupted.
  defp timed(run) do
    thread = thread()
    # Calls; longest short one; longest long one; the same of this group; interruptions before it.
    state = :atomics.new(5, [])
    :atomics.put(state, 5, interruptions(thread))

    run.(fn call ->
      started = :erlang.monotonic_time()
      # nil: no such table in the native engine.
      result = call.() || raise "not a native call"
      taken = System.convert_time_unit(:erlang.monotonic_time() - started, :native, :nanosecond)
      raise_to(state, if(taken < @limit_ns, do: 2, else: 4), taken)
      if rem(:atomics.add_get(state, 1, 1), @group) == 0, do: close_group(state, thread)
      result
    end)

    close_group(state, thread)
    {:atomics.get(state, 2), :atomics.get(state, 3)}
  end

  defp close_group(state, thread) do
    interruptions = interruptions(thread)
    long = :atomics.get(state, 4)
    if interruptions == :atomics.get(state, 5), do: raise_to(state, 3, long)
    :atomics.put(state, 4, 0)
    :atomics.put(state, 5, interruptions)
  end

  defp raise_to(state, index, value) do
    if value > :atomics.get(state, index), do: :atomics.put(state, index, value)
  end

  # The thread of the scheduler that this process is pinned to; its name depends on the
  # OTP.
  defp thread do
    Enum.find(Path.wildcard("/proc/self/task/*"), fn task ->
      File.read(Path.join(task, "comm")) in [{:ok, "1_scheduler\n"}, {:ok, "erts_sched_1\n"}]
    end)
  end

  # How often the system has put another thread in its place. Where that cannot be known,
  # every call counts.
  defp interruptions(nil), do: 0

  defp interruptions(task) do
    status = File.read!(Path.join(task, "status"))
    [_line, count] = Regex.run(~r/^nonvoluntary_ctxt_switches:\s*(\d+)$/m, status)
    String.to_integer(count)
  end

  defp exit_of(name, seen, fill) do
    caller = self()
    thread = thread()

    pid =
      :erlang.spawn_opt(
        fn ->
          fill.()
          send(caller, {:filled, self()})
          Process.sleep(:infinity)
        end,
        scheduler: 1
      )

    receive do
      {:filled, ^pid} -> forget(seen, pid)
    end

    before = interruptions(thread)
    Tables.stop([pid])
    Bench.spin_until(fn -> Foundation.Registry.count(Tables.ours()) == 0 end)
    interrupted? = interruptions(thread) != before
    [{name, if(interrupted?, do: 0, else: saw(seen, pid) * 1_000_000)}]
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
      # A broadcast, with the processes of other nodes, of which there are none.
      {_sent, [], :done} -> :ok
      {_sent, [], cursor} -> chunks(cursor, call, fun)
    end
  end
end
