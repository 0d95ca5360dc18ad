defmodule Mix.Tasks.Foundation.Audit do
  @shortdoc "Finds the use of the process dictionary in source code"

  @moduledoc """
  Finds calls that use the process dictionary, and says what to use instead.

      mix foundation.audit [PATH...] [--allow GLOB]... [--format text|json]

  `PATH` is a file or a directory; `.ex` and `.exs` files are read. Without one, the project's own
  source directories are (`:elixirc_paths`, those of every application in an umbrella). Nothing is
  compiled or run. `Foundation.Audit` lists what the audit can find, and what it cannot.

  ## Options

    * `--allow GLOB` - files in which the process dictionary may be used. May be given several
      times. `*` and `?` match within one segment of a path, `**` across segments, `{a,b}` either;
      a plain path also stands for everything below it. Quote it, or the shell expands it.
    * `--format text` - one line a call, `FILE:LINE: CALL - SUGGESTION`, and a summary. The default.
    * `--help`, `-h` - the usage, and no audit.
    * `--format json` - one object, alone on standard output:
      `{"findings": [{"file": ..., "line": ..., "call": ..., "suggestion": ...}]}`.

  ## Exit status

  The status is 0 if nothing was found and 1 if something was. It is 2 for an unknown option, a
  path that does not exist, or a file that cannot be read or parsed. Standard error then names the
  problem, and the findings in the other files are still reported.

  ## Configuration

  Files that are always allowed, in addition to those of `--allow`, are named once, in
  `config/config.exs`

      config :foundation, audit: [allow: ["lib/my_app/legacy/**"]]

  or in `mix.exs`:

      def project do
        [
          app: :my_app,
          foundation_audit: [allow: ["lib/my_app/legacy/**"]],
          ...
        ]
      end
  """

  use Mix.Task

  alias Foundation.{Audit, Config, Options}

  @project_schema [allow: [type: {:list_of, :string}, default: []]]
  @switches [allow: :keep, format: :string, help: :boolean]
  @aliases [h: :help]
  @usage "usage: mix foundation.audit [PATH...] [--allow GLOB]... [--format text|json]"
  @formats ~w(text json)
  @keys [:file, :line, :call, :suggestion]

  @impl true
  def run(arguments) do
    {options, paths} = parse!(arguments)

    if options[:help],
      do: IO.puts([@usage, "\nmix help foundation.audit explains the options"]),
      else: audit(options, paths)
  end

  defp audit(options, paths) do
    allow = Keyword.get_values(options, :allow) ++ configured!()
    result = Audit.run(if(paths == [], do: own_paths!(), else: paths), allow: allow)

    Enum.each(result.problems, &IO.puts(:stderr, ["** ", location(&1), ": ", &1.message]))
    IO.write(report(Keyword.get(options, :format, "text"), result))

    case result do
      %{problems: [_ | _]} -> exit({:shutdown, 2})
      %{findings: [_ | _]} -> exit({:shutdown, 1})
      _clean -> :ok
    end
  end

  defp parse!(arguments) do
    case OptionParser.parse(arguments, strict: @switches, aliases: @aliases) do
      {options, paths, []} ->
        format = Keyword.get(options, :format, "text")

        unless format in @formats do
          misuse("expected --format to be text or json, got: #{format}")
        end

        {options, paths}

      {_options, _paths, [{option, _value} | _]} ->
        misuse("unknown option or missing value: #{option}")
    end
  end

  defp misuse(message) do
    IO.puts(:stderr, ["** ", message, "\n", @usage])
    exit({:shutdown, 2})
  end

  defp configured! do
    in_project =
      Options.validate!(
        Mix.Project.config()[:foundation_audit] || [],
        @project_schema,
        ":foundation_audit of mix.exs"
      )

    Config.get(:audit)[:allow] ++ in_project[:allow]
  rescue
    error in ArgumentError -> misuse(Exception.message(error))
  end

  defp own_paths! do
    cond do
      apps = Mix.Project.apps_paths() ->
        for {app, path} <- Enum.sort(apps),
            source <- Mix.Project.in_project(app, path, fn _module -> source_paths() end),
            do: Path.join(path, source)

      Mix.Project.get() ->
        source_paths()

      true ->
        misuse("expected a PATH, since there is no mix.exs here")
    end
  end

  defp source_paths, do: Enum.filter(Mix.Project.config()[:elixirc_paths], &File.exists?/1)

  defp report("json", result) do
    findings = for f <- result.findings, do: Enum.map(@keys, &{&1, Map.fetch!(f, &1)})
    [Foundation.JSON.encode(%{findings: findings}), ?\n]
  end

  defp report("text", result) do
    lines = for f <- result.findings, do: [location(f), ": ", f.call, " - ", f.suggestion, ?\n]
    [lines, summary(result)]
  end

  # Files that were not read are not reported as clean.
  defp summary(%{findings: [], problems: [_ | _]}), do: []

  defp summary(%{findings: findings, files: files}) do
    uses = if findings == [], do: "No use", else: count(length(findings), "use")
    [uses, " of the process dictionary in ", count(files, "file"), ".\n"]
  end

  defp count(1, thing), do: "1 #{thing}"
  defp count(number, thing), do: "#{number} #{thing}s"

  defp location(%{file: file, line: nil}), do: file
  defp location(%{file: file, line: line}), do: [file, ?:, Integer.to_string(line)]
end
