for file <- ~w(bench report growth json plot summary),
    do: Code.require_file("#{file}.exs", __DIR__)

defmodule Bench.Command do
  @moduledoc false
  # The options of script/bench.

  alias Bench.{Context, Growth, JSON, Plot, Report, Result, Summary}

  @areas [
    {"registry_reads.exs", Bench.RegistryReads},
    {"registry_writes.exs", Bench.RegistryWrites},
    {"registry_concurrency.exs", Bench.RegistryConcurrency},
    {"surface.exs", Bench.Surface},
    {"surface_table.exs", Bench.SurfaceTable},
    {"agent_registry.exs", Bench.AgentRegistry},
    {"concurrent_registry.exs", Bench.ConcurrentRegistry},
    {"error_context.exs", Bench.ErrorContext},
    {"telemetry.exs", Bench.Telemetry},
    {"resilience.exs", Bench.Resilience},
    {"cache.exs", Bench.Cache},
    {"event_log.exs", Bench.EventLog},
    {"registry_memory.exs", Bench.RegistryMemory},
    {"cluster.exs", Bench.Cluster},
    {"scheduler.exs", Bench.Scheduler}
  ]

  @switches [
    json: :string,
    quick: :boolean,
    engine: :string,
    only: :string,
    size: :string,
    rounds: :integer,
    growth: :boolean,
    plot: :boolean,
    to: :string,
    markdown: :boolean,
    record: :boolean,
    list: :boolean,
    help: :boolean
  ]

  @usage """
  usage: script/bench [OPTION ...] [ROW ...]

      --json FILE             write the results to FILE too: a list of objects
      --quick                 small sizes and few rounds: shows that everything runs
      --size N[,N ...]        measure at these sizes (1000, 10k, 1M); only the rows' own sizes have
                              targets
      --rounds N              measure so many rounds (21)
      --engine native|ets     measure that engine
      --only TEXT             of surface and surface_table the variants whose names contain TEXT

      --growth [ROW ...]      measure how the rows grow with their size and with processes, and write
                              that to the file of --json (bench/results/growth.json); with --size
                              only at those of these sizes that the rows have there
      --plot FILE ... [--to DIR]
                              draw the pictures of files of --growth into DIR (bench/plots)
      --markdown FILE ...     print the table of BENCHMARKS.md from files of --json, one a run
      --record [FILE ...]     write that table into BENCHMARKS.md, and make the first table of
                              BENCHMARKS.md and the figures of README.md of the one that is there

      --list                  name the rows and their targets
      --help                  print this
  """

  def main(argv) do
    {options, names} = parse(argv)

    cond do
      options[:help] -> IO.write(@usage)
      options[:list] -> for row <- select(names), do: IO.write(Report.described(row))
      options[:markdown] -> IO.write(Report.markdown(Enum.map(names, &read/1)))
      options[:record] -> record(Enum.map(names, &read/1))
      options[:plot] -> plot(names, Keyword.get(options, :to, "bench/plots"))
      options[:growth] -> growth(select(names), options)
      true -> run(select(names), options)
    end
  end

  defp run(rows, options) do
    rows = sized(rows, options[:size])
    file = writable(options[:json])
    start(options[:engine])
    machine = Report.machine()
    context = context(options)
    if context.quick?, do: IO.puts("quick: small sizes and few rounds, so no targets\n")
    IO.write(Report.heading(machine))

    rows
    |> Stream.map(&for_engine(&1, Foundation.engine()))
    |> Stream.flat_map(fn row ->
      row |> sizes(context) |> Stream.flat_map(&measure(row, &1, context)) |> with_mean(row)
    end)
    |> collect(file, fn {row, size, result} ->
      row = if context.quick?, do: %{row | target: nil}, else: row
      IO.write(Report.line(row, size, result))
      Report.json(row, size, result) ++ [machine: machine]
    end)
  end

  defp measure(row, size, context) do
    results =
      case row.run.(size, context) do
        %Result{} = result -> [result]
        results -> results
      end

    Stream.map(results, &{row, size, &1})
  end

  defp for_engine(%{ets_target: target} = row, :ets) when target != nil,
    do: %{row | target: target, mean: row.ets_mean}

  defp for_engine(row, _engine), do: row

  # The mean of the results follows the last of them.
  defp with_mean(results, %{mean: nil}), do: results

  defp with_mean(results, row) do
    Stream.transform(
      Stream.concat(results, [:end]),
      [],
      fn
        :end, [] ->
          {[], []}

        :end, seen ->
          {[{%{row | target: row.mean}, nil, Bench.mean(seen)}], []}

        {_row, _size, result} = measured, seen ->
          {[measured], [result | seen]}
      end
    )
  end

  defp growth(rows, options) do
    sizes = if text = options[:size], do: sizes(text)
    file = writable(Keyword.get(options, :json, "bench/results/growth.json"))

    # Room for all events at the largest size.
    room = [max_windows: 4_000_000, max_pending: 4_000_000]
    Application.put_env(:foundation, Foundation.Telemetry.SampledEvents, room)
    Application.stop(:foundation)
    start(options[:engine])

    machine = Report.machine()
    IO.write(Report.heading(machine))

    rows
    |> Growth.measure(context(options), sizes)
    |> collect(file, fn {row, point, result} ->
      IO.write(Report.line(%{row | target: nil}, Growth.label(point), result))
      Growth.json(row, point, result) ++ [machine: machine]
    end)
  end

  # The file is written after each result, so a stopped run loses no result.
  defp collect(results, file, fun) do
    Enum.reduce(results, [], fn result, written ->
      written = [Foundation.JSON.encode(fun.(result)) | written]

      if file,
        do:
          File.write!(file, ["[\n", written |> Enum.reverse() |> Enum.intersperse(",\n"), "\n]\n"])

      written
    end)

    if file, do: IO.puts("\nwritten to #{file}")
  end

  defp record(runs) do
    page = File.read!("BENCHMARKS.md")
    page = if runs == [], do: page, else: Summary.replace(page, "results", Report.markdown(runs))
    File.write!("BENCHMARKS.md", Summary.benchmarks(page))
    File.write!("README.md", Summary.readme(File.read!("README.md"), page))
  end

  # If several files have the same result, the last one counts.
  defp plot(files, directory) do
    results = Enum.flat_map(files, &read/1)

    unless Enum.all?(results, &is_map_key(&1, "dimension")) do
      misuse("#{Enum.join(files, ", ")}: not files of --growth")
    end

    File.mkdir_p!(directory)

    for {name, svg} <- Plot.pictures(results) do
      path = Path.join(directory, name)
      File.write!(path, svg)
      IO.puts(path)
    end
  end

  defp parse(argv) do
    # `mix run FILE -- ROW` passes the dashes on.
    case OptionParser.parse(Enum.reject(argv, &(&1 == "--")), strict: @switches) do
      {options, names, []} ->
        {checked(options, names), names}

      {_options, _names, [{switch, _value} | _]} ->
        misuse("unknown option or bad value: #{switch}")
    end
  end

  defp checked(options, names) do
    cond do
      options[:engine] not in [nil, "native", "ets"] ->
        misuse("expected --engine to be native or ets, got: #{options[:engine]}")

      Keyword.get(options, :rounds, 1) < 1 ->
        misuse("expected --rounds to be at least 1, got: #{options[:rounds]}")

      options[:markdown] && names == [] ->
        misuse("--markdown needs files of --json")

      options[:plot] && names == [] ->
        misuse("--plot needs files of --growth")

      options[:to] && !options[:plot] ->
        misuse("--to is where --plot draws")

      true ->
        options
    end
  end

  defp rows do
    Enum.flat_map(@areas, fn {file, module} ->
      Code.require_file("../#{file}", __DIR__)
      module.rows()
    end)
  end

  defp select(names) do
    rows = rows()
    known = Enum.map(rows, &"#{&1.name}")

    for name <- names, name not in known do
      misuse("no row #{name}; there are: #{Enum.join(known, ", ")}")
    end

    if names == [], do: rows, else: Enum.filter(rows, &("#{&1.name}" in names))
  end

  # The rows at the requested sizes. A row of one fixed size has no other.
  defp sized(rows, nil), do: rows

  defp sized(rows, text) do
    sizes = sizes(text)

    for row <- rows, size <- sizes, size not in row.sizes do
      if row.growth == [],
        do: misuse("#{row.name} has no other size than #{Enum.join(row.sizes, ", ")}")

      {least, most} = Enum.min_max(row.growth)

      if size not in least..most do
        misuse("#{row.name}: expected a size from #{least} to #{most}, got: #{size}")
      end
    end

    for row <- rows, do: %{row | sizes: sizes, quick: sizes}
  end

  defp sizes(text), do: text |> String.split(",") |> Enum.map(&size/1)

  defp size(text) do
    with {number, unit} when number > 0 <- Integer.parse(text),
         factor when factor != nil <- %{"" => 1, "k" => 1_000, "M" => 1_000_000}[unit] do
      number * factor
    else
      _no_size -> misuse("expected --size to be a number such as 1000, 10k or 1M, got: #{text}")
    end
  end

  # The engine is chosen when the application starts.
  defp start(nil), do: {:ok, _started} = Application.ensure_all_started(:foundation)

  defp start(engine) do
    Application.stop(:foundation)
    Application.put_env(:foundation, :engine, String.to_existing_atom(engine))
    {:ok, _started} = Application.ensure_all_started(:foundation)
  end

  defp context(options) do
    context =
      if options[:quick],
        do: %Context{quick?: true, rounds: 5, per_round: 2_000},
        else: %Context{}

    %{context | rounds: Keyword.get(options, :rounds, context.rounds), only: options[:only]}
  end

  defp sizes(row, %{quick?: true}), do: row.quick || [hd(row.sizes)]
  defp sizes(row, _context), do: row.sizes

  # Before anything is measured.
  defp writable(nil), do: nil

  defp writable(file) do
    File.mkdir_p(Path.dirname(file))

    case File.write(file, "[]\n") do
      :ok -> file
      {:error, reason} -> misuse("cannot write #{file}: #{:file.format_error(reason)}")
    end
  end

  defp read(file) do
    with {:ok, text} <- File.read(file),
         {:ok, [%{"row" => _} | _] = results} <- JSON.decode(text) do
      results
    else
      {:error, reason} when is_atom(reason) ->
        misuse("cannot read #{file}: #{:file.format_error(reason)}")

      _other ->
        misuse("#{file} is not a file of --json with results in it")
    end
  end

  @spec misuse(String.t()) :: no_return
  defp misuse(message) do
    IO.write(:stderr, [message, "\n\n", @usage])
    exit({:shutdown, 2})
  end
end
