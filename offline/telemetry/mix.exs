defmodule Telemetry.MixProject do
  use Mix.Project

  def project do
    [app: :telemetry, version: "1.3.0", language: :erlang, deps: []]
  end

  def application do
    [mod: {:telemetry_app, []}]
  end
end
