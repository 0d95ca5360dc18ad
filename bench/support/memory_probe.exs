# bench/registry_memory.exs runs this in a VM of its own, so nothing that ran before counts. It
# prints its figures as one Erlang term.
#
#     elixir -pa ... memory_probe.exs ENGINE fill SIDE KIND SIZE
#     elixir -pa ... memory_probe.exs ENGINE back SIZE TIMES

defmodule Bench.MemoryProbe do
  @moduledoc false

  @table Bench.Probed

  def main([engine | arguments]) do
    Application.put_env(:foundation, :engine, String.to_atom(engine))
    {:ok, _started} = Application.ensure_all_started(:foundation)
    IO.write(:io_lib.format("~w.~n", [measure(arguments)]))
  end

  # Bytes per entry: [of the VM, of the system].
  defp measure(["fill", side, kind, size]) do
    size = String.to_integer(size)
    side = String.to_atom(side)
    {:ok, _pid} = start(side)

    # Collects the garbage of all processes but the registrants, which keep theirs on both sides.
    running = Process.list()
    first = registrants(side, kind, size)
    before = now(running)
    send(first, :register)

    receive do
      :register -> :ok
    end

    after_ = now(running)
    ^size = count(side)

    for {before, after_} <- Enum.zip(before, after_), do: (after_ - before) / size
  end

  # Bytes {before, when full first, when empty first, when empty last}, each {VM, system}.
  defp measure(["back", size, times]) do
    size = String.to_integer(size)
    {:ok, _pid} = start(:ours)
    before = now(Process.list())

    [{full, empty} | rest] =
      for _time <- 1..String.to_integer(times) do
        {owner, done} = owner(fn -> fill(:ours, "integer", 1..size) end)
        done.()
        full = now(Process.list())
        stop(owner)
        await(fn -> Foundation.Registry.count(@table) == 0 end)
        {full, settled()}
      end

    {_full, last} = List.last(rest)
    {before, full, empty, last}
  end

  defp start(:ours), do: Foundation.Registry.start_link(keys: :unique, name: @table)
  defp start(:theirs), do: Registry.start_link(keys: :unique, name: @table)

  # Each process registers when it is told to, and then tells the next one. The last one tells the
  # caller. All exist before the measurement starts, and one is awake at a time. So no mailbox or
  # heap grows in the meantime, which the resident set would keep. The figure has the entry with its
  # monitor or link, and not the process.
  defp registrants(side, "process", size) do
    Enum.reduce(size..1//-1, self(), &registrant([side, "integer", &1..&1, &2]))
  end

  defp registrants(side, kind, size), do: registrant([side, kind, 1..size, self()])

  defp registrant(arguments), do: spawn(__MODULE__, :register_then_tell, arguments)

  @doc false
  def register_then_tell(side, kind, range, next) do
    receive do
      :register -> fill(side, kind, range)
    end

    send(next, :register)
    Process.sleep(:infinity)
  end

  defp owner(fun) do
    caller = self()

    # A heap with room for everything. The figure would include one that grows and shrinks.
    pid =
      :erlang.spawn_opt(
        fn ->
          fun.()
          send(caller, {:done, self()})
          Process.sleep(:infinity)
        end,
        min_heap_size: 500
      )

    done = fn ->
      receive do
        {:done, ^pid} -> :ok
      end
    end

    {pid, done}
  end

  defp stop(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
    end
  end

  # Builds no list of results: its heap would stay in the resident set for a while.
  defp fill(side, "integer", range), do: Enum.each(range, &register(side, &1))
  defp fill(side, "binary", range), do: Enum.each(range, &register(side, "user:#{&1}"))

  defp register(:ours, key), do: {:ok, _owner} = Foundation.Registry.register(@table, key, nil)
  defp register(:theirs, key), do: {:ok, _owner} = Registry.register(@table, key, nil)

  defp count(:ours), do: Foundation.Registry.count(@table)
  defp count(:theirs), do: Registry.count(@table)

  defp now(pids) do
    Enum.each(pids, &:erlang.garbage_collect/1)
    [:erlang.memory(:total), resident()]
  end

  # A background thread gives memory back later, so the lowest figure of a second counts.
  defp settled do
    1..10
    |> Enum.map(fn _turn ->
      Process.sleep(100)
      now(Process.list())
    end)
    |> Enum.zip_with(&Enum.min/1)
  end

  defp await(condition) do
    unless condition.() do
      Process.sleep(1)
      await(condition)
    end
  end

  defp resident do
    [_line, kilobytes] = Regex.run(~r/^VmRSS:\s*(\d+) kB$/m, File.read!("/proc/self/status"))
    String.to_integer(kilobytes) * 1024
  end
end

Bench.MemoryProbe.main(System.argv())
