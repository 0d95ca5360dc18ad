defmodule Telemetry.MixProject do
  use Mix.Project

  def project do
    [
      app: :telemetry,
      version: "1.4.1",
      language: :erlang,
      description: "The public API of telemetry, for builds that cannot reach Hex",
      deps: []
    ]
  end

  def application do
    [
      mod: {:telemetry_app, []},
      registered: [:telemetry_sup, :telemetry_handlers],
      extra_applications: []
    ]
  end
end
