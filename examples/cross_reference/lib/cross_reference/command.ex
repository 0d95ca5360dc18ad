defmodule CrossReference.Command do
  @moduledoc false
  # The command line: reads the options, runs, prints the report, and exits with its verdict.

  alias CrossReference.{Events, Format, Input, Options, Run, Summary}
  alias Foundation.Telemetry.SampledEvents

  @doc "Runs the command line `argv`; exits with status 1 or 2 as the task documents."
  @spec run([String.t()]) :: :ok
  def run(argv) do
    case Options.parse(argv) do
      {:ok, options} -> run_with(options)
      :help -> IO.write(Options.usage())
      {:error, message} -> misuse(message)
    end
  end

  defp run_with(options) do
    sources = select(Input.sources(), options.modules)
    module = module(options.module, sources)
    start(options.engine)
    IO.puts(heading(options, sources))

    options |> Run.run(sources) |> conclude(options, module)
  end

  @doc "Prints and writes the report of a run; exits with status 1 when something in it is wrong."
  @spec conclude(map, Options.t(), module | nil) :: :ok
  def conclude(report, options, module) do
    IO.write(Summary.text(report, module))
    if options.json, do: write(options.json, Summary.json(report, module))

    if report.equal and report.fits and report.telemetry.fits,
      do: :ok,
      else: exit({:shutdown, 1})
  end

  defp select(sources, nil), do: sources
  defp select(sources, n), do: Enum.take(sources, n)

  defp module(nil, _sources), do: nil

  defp module(name, sources) do
    case Enum.find(sources, &(inspect(&1.module) in [name, ":" <> name])) do
      nil -> misuse("no module #{name} among the #{length(sources)} that take part")
      source -> source.module
    end
  end

  # The engine is decided when the application starts.
  defp start(engine) do
    if engine do
      Application.stop(:foundation)
      Application.put_env(:foundation, :engine, engine)
    end

    # Room for an event a call, which counts once a run.
    Application.put_env(:foundation, SampledEvents, Events.settings())

    case Application.ensure_all_started(:foundation) do
      {:ok, _started} -> :ok
      {:error, reason} -> raise "cannot start :foundation: " <> inspect(reason)
    end
  end

  defp heading(options, sources) do
    applications = sources |> Enum.uniq_by(& &1.application) |> length()

    """
    Who calls whom in Erlang/OTP #{System.otp_release()} and Elixir #{System.version()}: \
    #{Format.integer(length(sources))} modules of #{applications} applications
    engine #{Foundation.engine()}, #{System.schedulers_online()} schedulers, \
    kills #{options.kill} %, seed #{options.seed}
    """
  end

  defp write(file, report) do
    File.write!(file, [Foundation.JSON.encode(report), "\n"])
    IO.puts("Figures written to #{file}")
  end

  @spec misuse(String.t()) :: no_return
  defp misuse(message) do
    IO.write(:stderr, ["script/demo: ", message, "\n\n", Options.usage()])
    exit({:shutdown, 2})
  end
end
