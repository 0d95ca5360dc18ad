defmodule Foundation.MixProject do
  use Mix.Project

  @version "0.1.0"

  # The repository's address, from whose releases the prebuilt libraries come. There is none yet, so
  # the library is built: see RELEASING.md.
  @source_url nil

  # Offline mode changes the project. No package has this file.
  for file <- Path.wildcard("#{__DIR__}/offline/project.exs"), do: Code.require_file(file)

  # In the order in which they are read.
  @guides ~w(
    getting_started.md tour.livemd drop_in_registry.md error_context.md telemetry.md
    event_log.md cluster.md resilience.md cache.md jido.md prometheus.md migrating.md guarantees.md
    operating.md architecture.md
  )

  def project do
    [
      app: :foundation,
      name: "Foundation",
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      # Code that the tests read: Elixir 1.19 takes it for tests with a mistyped name.
      test_ignore_filters: [&String.starts_with?(&1, "test/migrating/")],
      start_permanent: Mix.env() == :prod,
      deps: deps(),
      description: description(),
      package: package(),
      docs: docs(),
      source_url: @source_url,
      # Legacy backends exist to migrate away from the process dictionary.
      foundation_audit: [allow: ["lib/foundation/legacy/*.ex"]],
      dialyzer: [plt_add_apps: [:mix, :ex_unit]]
    ]
  end

  def application do
    [
      mod: {Foundation.Application, []},
      extra_applications: extra_applications(Mix.env())
    ]
  end

  # What tests read the benchmark's pictures with: from 1.15 on only what is named here is found.
  defp extra_applications(:test), do: [:logger, :xmerl]
  defp extra_applications(_env), do: [:logger]

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp deps do
    jido() ++
      [
        {:telemetry, "~> 1.0"},
        {:rustler_precompiled, "~> 0.8", runtime: false},
        {:rustler, rustler(), optional: true, runtime: false},
        # An engine of Foundation.Cluster.
        {:syn, "~> 3.4 and >= 3.4.1", optional: true},
        # For Foundation.Audit.CredoCheck, which is compiled only where Credo is.
        {:credo, "~> 1.7", optional: true, runtime: false},
        # For Foundation.OpenTelemetry, which is compiled only where it is.
        {:opentelemetry_api, "~> 1.2", optional: true, runtime: false},
        {:telemetry_metrics, "~> 1.0", optional: true, runtime: false},
        {:benchee, "~> 1.3", only: :dev, runtime: false},
        {:dialyxir, "~> 1.4", only: :dev, runtime: false},
        {:ex_doc, "~> 0.34", only: :dev, runtime: false},
        {:proper, "~> 1.4", only: :test}
      ]
  end

  # For Foundation.Jido. It needs Elixir 1.18, and Hex does not look at that.
  defp jido do
    if Version.match?(System.version(), "~> 1.18"),
      do: [{:jido, "~> 2.0", optional: true, runtime: false}],
      else: []
  end

  # Its later versions do not run on Elixir 1.14, and Hex does not look at that.
  defp rustler do
    if Version.match?(System.version(), "~> 1.15"), do: "~> 0.36", else: "~> 0.36.0"
  end

  defp description do
    "Supervised, observable, concurrent state in place of the process dictionary: " <>
      "registry, context, telemetry, with the hot tables in Rust."
  end

  defp package do
    [
      # The name of the application is taken.
      name: "foundation_native",
      licenses: ["Apache-2.0"],
      links: for(url <- List.wrap(@source_url), into: %{}, do: {"Repository", url}),
      files:
        ~w(lib guides mix.exs .formatter.exs .cargo/config.toml native/package) ++
          ~w(native/foundation_core/src native/foundation_log/src native/foundation_nif/src) ++
          ~w(checksum-*.exs *.md LICENSE)
    ]
  end

  defp docs do
    [
      main: "readme",
      extras:
        ["README.md"] ++
          for(guide <- @guides, do: "guides/#{guide}") ++
          (Path.wildcard("*.md") -- ["README.md"]) ++ ["LICENSE"],
      groups_for_extras: [Guides: ~r"^guides/", "The project": ~r"^(?!README|guides/)"],
      assets: %{
        "guides/images" => "images",
        "guides/dashboards" => "dashboards",
        "bench/plots" => "bench/plots"
      },
      # It speaks of modules that are not public.
      skip_undefined_reference_warnings_on: ["INTERNALS.md"],
      groups_for_modules: [
        Registry: [~r/^Foundation\.(Agent)?Registry/],
        Cluster: [~r/^Foundation\.Cluster/],
        Cache: [~r/^Foundation\.Cache/],
        "Error context": [Foundation.ErrorContext, Foundation.RequestContext],
        Telemetry: [~r/^Foundation\.Telemetry/],
        "Durable events": [~r/^Foundation\.EventLog/],
        Integrations: [~r/^Foundation\.(Jido|OpenTelemetry|Telemetry\.Metrics)/],
        Migration: [Foundation.FeatureFlags, Foundation.Migration],
        "State and health": [
          Foundation.StateManager,
          Foundation.ConcurrentRegistry,
          Foundation.HealthCheck
        ]
      ]
    ]
  end
end
