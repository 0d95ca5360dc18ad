defmodule Mix.Tasks.Foundation.Demo do
  @shortdoc "Cross-references Erlang and Elixir with one agent a module, while agents are killed"

  @moduledoc """
  Cross-references the Erlang and Elixir installation that it runs on: which module calls which.

      $ mix foundation.demo
      $ mix foundation.demo --module lists --kill 25 --json figures.json

  One supervised agent stands for each module. It is registered through `Foundation.AgentRegistry`
  and named through `Foundation.Registry`; it reads its module's compiled code, finds for
  every call the agent of the called module in the registry, and tells it. Meanwhile some of the
  agents are killed at random, and the processes that own the two registries once each.
  Each call that an agent records is emitted as a batched and as a deduplicated event, and each
  module's work is a span. What they found is then compared with a plain sequential computation of
  the same.

  ## Options

    * `--modules N` - take the first N modules only, the ones that others build on first
      (default: all)
    * `--kill PERCENT` - how many of the agents to kill (default: 10); 0 kills nothing,
      neither agents nor owners
    * `--module M` - list the callers of `M`, such as `lists` or `Enum`
    * `--engine native|ets` - run on that engine (default: the configured one)
    * `--seed N` - choose the victims by `N` (default: a random number, which is printed)
    * `--json FILE` - write all figures to `FILE`

  ## Exit status

    * 0 - the result is right, and every registration and event is accounted for
    * 1 - it is not
    * 2 - an option was not understood; the usage is on standard error
  """

  use Mix.Task

  alias Foundation.Demo.{Events, Format, Input, Options, Run, Summary}
  alias Foundation.Telemetry.SampledEvents

  @impl true
  def run(argv) do
    case Options.parse(argv) do
      {:ok, options} -> run_with(options)
      :help -> IO.write(Options.usage())
      {:error, message} -> misuse(message)
    end
  end

  defp run_with(options) do
    Mix.Task.run("app.config")
    sources = select(Input.sources(), options.modules)
    module = module(options.module, sources)
    start(options.engine)
    IO.puts(heading(options, sources))

    options |> Run.run(sources) |> conclude(options, module)
  end

  @doc false
  # Prints and writes what a run found, and exits when it found wrong.
  def conclude(report, options, module) do
    IO.write(Summary.text(report, module))
    if options.json, do: write(options.json, Summary.json(report, module))
    unless report.equal and report.fits and report.telemetry.fits, do: exit({:shutdown, 1})
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
      {:error, reason} -> Mix.raise("cannot start :foundation: " <> inspect(reason))
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
    IO.write(:stderr, ["mix foundation.demo: ", message, "\n\n", Options.usage()])
    exit({:shutdown, 2})
  end
end
