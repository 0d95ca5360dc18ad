defmodule Foundation.MixProject do
  use Mix.Project

  @version "0.1.0"
  @offline System.get_env("FOUNDATION_OFFLINE") == "1"

  if @offline, do: Code.require_file("offline/compile_native.exs", __DIR__)

  def project do
    [
      app: :foundation,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      compilers: compilers(),
      deps: deps()
    ]
  end

  def application do
    [
      mod: {Foundation.Application, []},
      extra_applications: [:logger]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp compilers do
    if @offline, do: [:foundation_native | Mix.compilers()], else: Mix.compilers()
  end

  defp deps do
    if @offline do
      [
        {:telemetry, path: "offline/telemetry"},
        {:rustler_precompiled, path: "offline/rustler_precompiled", runtime: false}
      ]
    else
      [
        {:telemetry, "~> 1.0"},
        {:rustler_precompiled, "~> 0.8"},
        {:rustler, "~> 0.37", optional: true}
      ]
    end
  end
end
