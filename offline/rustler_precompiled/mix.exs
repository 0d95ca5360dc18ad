defmodule RustlerPrecompiled.MixProject do
  use Mix.Project

  def project do
    [
      app: :rustler_precompiled,
      version: "0.8.4",
      elixir: "~> 1.14",
      description: "The shape of rustler_precompiled, for builds that cannot reach Hex",
      deps: []
    ]
  end

  def application, do: [extra_applications: [:logger]]
end
