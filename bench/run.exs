# Measures Foundation against what it replaces.
#
#     mix run bench/run.exs [options] [ROW ...]
#
#     --json FILE            write the results to FILE
#     --quick                small sizes and few rounds: shows that everything runs
#     --engine native|ets    measure that engine
#     --list                 name the rows and their targets
#     --help                 print the options
#
# Every figure is a ratio of two medians in one run: ours and theirs take turns, in one
# process on one scheduler, over at least 20 rounds; each result is checked before it is
# timed, and what the loop costs is subtracted. `spread` is the ratio of the tenth and
# of the ninetieth of a hundred rounds.
#
# A new row goes into the file of its area, bench/AREA.exs: a module whose `rows/0` returns a list
# of `Bench.Row`, named in @areas below. See bench/support/bench.exs for what rows are
# made of.

for file <- ~w(bench report), do: Code.require_file("support/#{file}.exs", __DIR__)

defmodule Bench.Run do
  @moduledoc false

  @areas [
    {"registry_reads.exs", Bench.RegistryReads},
    {"registry_writes.exs", Bench.RegistryWrites},
    {"registry_concurrency.exs", Bench.RegistryConcurrency},
    {"agent_registry.exs", Bench.AgentRegistry},
    {"error_context.exs", Bench.ErrorContext},
    {"telemetry.exs", Bench.Telemetry},
    {"registry_memory.exs", Bench.RegistryMemory},
    {"scheduler.exs", Bench.Scheduler}
  ]

  @switches [json: :string, quick: :boolean, engine: :string, list: :boolean, help: :boolean]
  @usage "usage: mix run bench/run.exs [--quick] [--engine native|ets] [--json FILE] [--list] [--help] [ROW ...]\n"

  def main(argv) do
    {options, names} = parse(argv)
    if options[:help], do: IO.write(@usage), else: run(select(load(), names), options)
  end

  defp run(rows, options) do
    if options[:list] do
      for row <- rows, do: IO.puts([String.pad_trailing("#{row.name}", 24), inspect(row.target)])
    else
      start(options[:engine])
      IO.write(Bench.Report.heading())
      machine = Bench.Report.machine()
      context = context(options[:quick])
      if context.quick?, do: IO.puts("quick: small sizes and few rounds, so no targets\n")
      results = Enum.flat_map(rows, &measure(&1, context))
      if file = options[:json], do: write(file, machine, context, results)
    end
  end

  defp parse(argv) do
    # `mix run FILE -- ROW` hands the dashes on.
    case OptionParser.parse(Enum.reject(argv, &(&1 == "--")), strict: @switches) do
      {options, names, []} ->
        if options[:engine] in [nil, "native", "ets"],
          do: {options, names},
          else: misuse("expected --engine to be native or ets, got: #{options[:engine]}")

      {_options, _names, [{switch, _value} | _]} ->
        misuse("unknown option or bad value: #{switch}")
    end
  end

  defp load do
    Enum.flat_map(@areas, fn {file, module} ->
      Code.require_file(file, __DIR__)
      module.rows()
    end)
  end

  defp select(rows, []), do: rows

  defp select(rows, names) do
    known = Enum.map(rows, &"#{&1.name}")

    for name <- names, name not in known do
      misuse("no row #{name}; there are: #{Enum.join(known, ", ")}")
    end

    Enum.filter(rows, &("#{&1.name}" in names))
  end

  # The engine is decided when the application starts.
  defp start(nil), do: {:ok, _started} = Application.ensure_all_started(:foundation)

  defp start(engine) do
    Application.stop(:foundation)
    Application.put_env(:foundation, :engine, String.to_existing_atom(engine))
    {:ok, _started} = Application.ensure_all_started(:foundation)
  end

  defp context(true), do: %Bench.Context{quick?: true, rounds: 5, per_round: 2_000}
  defp context(_full), do: %Bench.Context{}

  defp measure(%{quick: sizes} = row, %{quick?: true} = context) do
    measure(%{row | target: nil}, sizes || [hd(row.sizes)], context)
  end

  defp measure(row, context), do: measure(row, row.sizes, context)

  defp measure(row, sizes, context) do
    for size <- sizes, result <- List.wrap(row.run.(size, context)) do
      IO.write(Bench.Report.line(row, size, result))
      Bench.Report.json(row, size, result)
    end
  end

  defp write(file, machine, context, results) do
    report = [
      machine: machine,
      quick: context.quick?,
      rounds: context.rounds,
      rows: results
    ]

    File.write!(file, [Foundation.JSON.encode(report), "\n"])
    IO.puts("\nwritten to #{file}")
  end

  defp misuse(message) do
    IO.write(:stderr, [message, "\n", @usage])
    exit({:shutdown, 2})
  end
end

Bench.Run.main(System.argv())
