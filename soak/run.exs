# Runs every area at once, breaks it at random, and checks all the time what is promised.
#
#     script/soak [MINUTES] [--engine native|ets] [--seed N]
#
# The default is two minutes. An *area* (soak/areas/) defines what its processes do, which faults it
# withstands, and which invariants hold nevertheless. The processes are the crew (support/crew.exs).
# They work against a model. Every few seconds they pause, and an audit checks what is exact only
# while no call is in flight. The seed determines the faults and the work, but not how they
# interleave.
#
# Exit status: 0 all invariants hold, 1 one does not, 2 wrong usage.

# The report formats figures as the demo does.
Code.require_file("../examples/cross_reference/lib/cross_reference/format.ex", __DIR__)

for folder <- ~w(support areas) do
  __DIR__
  |> Path.join("#{folder}/**/*.exs")
  |> Path.wildcard()
  |> Kernel.ParallelCompiler.require()
end

defmodule Soak.Run do
  @moduledoc false

  alias Soak.{Crew, Faults, Memory, Options, Pause, Record, Report}

  @areas [
    Soak.Registry,
    Soak.Agents,
    Soak.Locks,
    Soak.Events,
    Soak.Spans,
    Soak.Context,
    Soak.Flags,
    Soak.State,
    Soak.EventLog,
    Soak.Resilience,
    Soak.Cluster,
    Soak.Table,
    Soak.Cache,
    Soak.Library
  ]

  @audit_ms 10_000
  @warm_up_ms 3_000

  def main(argv) do
    case Options.parse(argv) do
      {:ok, options} -> run(options)
      {:help, usage} -> IO.write(usage)
      {:error, message} -> misuse(message)
    end
  end

  defp run(options) do
    # The logger would report every kill, and kills are intended here.
    Logger.configure(level: :none)
    Application.put_env(:foundation, :engine, options.engine)
    {:ok, _started} = Application.ensure_all_started(:foundation)
    Foundation.Peer.distribute()
    IO.write(Report.heading(options))

    Record.open(for area <- @areas, invariant <- area.invariants(), do: invariant)
    Pause.open()
    for area <- @areas, do: area.open(options)
    {:ok, _pid} = Crew.start_link(@areas, options.seed)

    Process.sleep(@warm_up_ms)
    audit()
    start = Memory.settled()

    started = System.monotonic_time(:millisecond)
    faults = Faults.new(@areas, options)
    break(faults, started + options.minutes * 60_000, now() + @audit_ms)

    # Without faults, so that the last audit finds all processes up.
    Process.sleep(@warm_up_ms)
    audit()
    Memory.judge(start, Memory.settled())
    # The event log has no ETS engine, and so no crew there.
    for area <- @areas, area.crew() != [], do: Record.progress(area.name())

    IO.write(Report.text(@areas, options, now() - started))
    failed? = Record.failed?()
    # What the crew does after that counts for nothing.
    Pause.all(fn -> for area <- @areas, function_exported?(area, :close, 0), do: area.close() end)
    if failed?, do: exit({:shutdown, 1})
  end

  defp break(faults, deadline, next_audit) do
    cond do
      now() >= deadline ->
        :ok

      now() >= next_audit ->
        audit()
        break(faults, deadline, now() + @audit_ms)

      true ->
        break(Faults.one(faults), deadline, next_audit)
    end
  end

  defp audit do
    Pause.all(fn -> Enum.each(@areas, &Record.guard(fn -> &1.audit() end)) end)
  end

  defp now, do: System.monotonic_time(:millisecond)

  defp misuse(message) do
    IO.write(:stderr, [message, "\n", Options.usage()])
    exit({:shutdown, 2})
  end
end

Soak.Run.main(System.argv())
