defmodule Foundation.DocsTest do
  # Checks the documentation of every public module, that is, every module with a moduledoc.
  # Functions with `@doc false` are not public.
  use ExUnit.Case, async: true

  # The modules that must have these chapters: all that keep state.
  @areas [
    Foundation.AgentRegistry,
    Foundation.Bulkhead,
    Foundation.Cache,
    Foundation.CircuitBreaker,
    Foundation.Cluster,
    Foundation.ConcurrentRegistry,
    Foundation.ErrorContext,
    Foundation.EventLog,
    Foundation.EventLog.Aggregate,
    Foundation.FeatureFlags,
    Foundation.HealthCheck,
    Foundation.Migration,
    Foundation.RateLimiter,
    Foundation.Registry,
    Foundation.Resilience,
    Foundation.Retry,
    Foundation.StateManager,
    Foundation.Telemetry.SampledEvents,
    Foundation.Telemetry.Sampler,
    Foundation.Telemetry.Span
  ]

  @pages Path.wildcard("*.md") ++ Path.wildcard("guides/*.{md,livemd}")

  test "every public function has @doc, @doc since and @spec" do
    for module <- public(), {{kind, name, arity}, _, _, doc, meta} <- documented(module) do
      function = "#{inspect(module)}.#{name}/#{arity}"
      assert is_map(doc), "#{function} has no @doc"
      assert meta[:since], "#{function} has no @doc since"

      assert kind != :function or {name, arity} in specs(module), "#{function} has no @spec"
    end
  end

  test "every public function has a doctest example" do
    for module <- public(),
        {{kind, name, arity}, _, _, %{"en" => doc}, _meta} <- documented(module),
        kind in [:function, :macro] do
      assert doc =~ "iex>", "#{inspect(module)}.#{name}/#{arity} has no doctest"
    end
  end

  test "the doctests of every public module are run" do
    run =
      for file <- Path.wildcard("test/**/*_test.exs"),
          [_all, name] <- Regex.scan(~r/^\s*doctest ([\w.]+)/m, File.read!(file)),
          do: name

    for module <- public(), examples?(module) do
      assert Enum.any?(run, &named?(module, &1)),
             "no test runs the doctests of #{inspect(module)}"
    end
  end

  test "every area's moduledoc has a chapter on consistency and one on events" do
    for module <- @areas, chapter <- ["Consistency", "Telemetry events"] do
      assert moduledoc(module) =~ ~r/^## #{chapter}/m, "#{inspect(module)} has no #{chapter}"
    end
  end

  test "every telemetry event is in its area's table and in the operating guide" do
    tables = Enum.map_join(public(), &moduledoc/1)
    operating = File.read!("guides/operating.md")

    emitted =
      for file <- Path.wildcard("lib/foundation/**/*.ex"),
          [event] <- Regex.scan(~r/\[:foundation(?:, :\w+)+\]/, code(file)),
          uniq: true,
          do: event

    assert length(emitted) >= 5

    for event <- emitted do
      assert tables =~ event, "no moduledoc has #{event} in a table"
      assert operating =~ event, "guides/operating.md does not name #{event}"
    end
  end

  test "every reference in the documentation is to a public function or module" do
    texts =
      for(page <- @pages, page != "INTERNALS.md", do: {page, File.read!(page)}) ++
        for module <- public(),
            {where, text} <- [{inspect(module), moduledoc(module)} | texts(module)],
            do: {where, text}

    references =
      for {where, text} <- texts,
          [_all, module | function] <-
            Regex.scan(~r/`(Foundation(?:\.[A-Z]\w*)*)(?:\.(\w+[?!]?)\/(\d+))?`/, text),
          do: {where, Module.concat([module]), function}

    assert length(references) > 50

    # The first is compiled only where Credo is installed. The second is a process and not a module.
    public = [Foundation.Audit.CredoCheck, Foundation.Supervisor | public()]

    for {where, module, function} <- references do
      assert module in public, "#{where} refers to #{inspect(module)}, which is not public"

      assert defined?(module, function),
             "#{where} refers to #{Enum.join([inspect(module) | function], ".")}, which is not there"
    end
  end

  test "the bounds in the guides equal the bounds in the code" do
    for {guide, schema} <- [
          {"guides/telemetry.md", Foundation.Telemetry.Events.Settings.schema()},
          {"guides/error_context.md", Foundation.ErrorContext.Limits.schema()}
        ],
        {key, setting} <- schema do
      default = setting[:default] |> to_string() |> String.replace(~r/\B(?=(\d{3})+$)/, ",")

      row = ~r/^\| `#{key}`[^|]*\| (`:)?#{default}\b/m
      assert File.read!(guide) =~ row, "#{guide} has another default of #{key} than #{default}"
    end
  end

  test "links between pages have a target" do
    for page <- @pages,
        [_all, target] <- Regex.scan(~r/\]\(([^)#\s]+)(?:#[^)]*)?\)/, File.read!(page)),
        not String.contains?(target, "://") do
      path = page |> Path.dirname() |> Path.join(target)
      assert File.exists?(path), "#{page} links to #{target}, which does not exist"
    end
  end

  test "guides/guarantees.md names existing tests for each guarantee" do
    rows =
      for "| " <> row <- "guides/guarantees.md" |> File.read!() |> String.split("\n"),
          row != "guarantee | test |",
          do: String.split(row, " | ")

    assert length(rows) > 20

    for [guarantee, tests] <- rows do
      named = ~r/`((?:test|native|bench|script)\/[^`]+)`/
      files = Regex.scan(named, tests, capture: :all_but_first)
      assert files != [], "no test is named of: #{guarantee}"
      for [file] <- files, do: assert(File.exists?(file), "#{file} of: #{guarantee}")
    end
  end

  test "the moduledoc of Foundation and the README share one text" do
    [_title, shared, _rest] = String.split(File.read!("README.md"), "<!-- MDOC -->")
    assert moduledoc(Foundation) == shared
    assert shared =~ "A drop-in replacement"
  end

  defp public do
    {:ok, modules} = :application.get_key(:foundation, :modules)
    for module <- modules, ours?(module), moduledoc(module) != nil, do: module
  end

  # Leaves out the modules of the tests.
  defp ours?(module) do
    to_string(module.module_info(:compile)[:source]) =~ ~r"/lib/(foundation|mix)[/.]"
  end

  defp moduledoc(module) do
    case Code.fetch_docs(module) do
      {:docs_v1, _, _, _, %{"en" => text}, _, _} -> text
      _hidden_or_none -> nil
    end
  end

  defp documented(module) do
    {:docs_v1, _, _, _, _, _, docs} = Code.fetch_docs(module)

    for {{kind, name, arity}, _, _, doc, _meta} = entry <- docs,
        kind in [:function, :macro, :callback, :macrocallback],
        doc != :hidden,
        # `use Supervisor` defines it.
        {name, arity} != {:child_spec, 1} or Supervisor not in behaviours(module),
        do: entry
  end

  defp behaviours(module) do
    for {:behaviour, behaviours} <- module.module_info(:attributes), one <- behaviours, do: one
  end

  defp texts(module) do
    for {{_, name, arity}, _, _, %{"en" => text}, _} <- documented(module),
        do: {"#{inspect(module)}.#{name}/#{arity}", text}
  end

  defp specs(module) do
    case Code.Typespec.fetch_specs(module) do
      {:ok, specs} -> for {function, _} <- specs, do: function
      :error -> []
    end
  end

  defp examples?(module) do
    texts = for {_function, text} <- texts(module), do: text
    Enum.any?([moduledoc(module) | texts], &(&1 =~ "iex>"))
  end

  defp named?(module, name) do
    inspect(module) == name or String.ends_with?(inspect(module), "." <> name)
  end

  defp defined?(_module, []), do: true

  defp defined?(module, [function, arity]) do
    arity = String.to_integer(arity)

    Enum.any?(documented(module), fn {{_, name, most}, _, _, _, meta} ->
      Atom.to_string(name) == function and arity in (most - (meta[:defaults] || 0))..most
    end)
  end

  # Returns a source without comments and documentation.
  defp code(file) do
    file
    |> File.read!()
    |> Code.string_to_quoted!()
    |> Macro.prewalk(&without_docs/1)
    |> Macro.to_string()
  end

  defp without_docs({:@, _, [{name, _, _}]}) when name in [:moduledoc, :doc, :typedoc], do: nil
  defp without_docs(other), do: other
end
