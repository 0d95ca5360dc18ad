defmodule Rooms.MixProject do
  use Mix.Project

  def project do
    [
      app: :rooms,
      version: "0.1.0",
      elixir: "~> 1.14",
      deps: deps(),
      # Shared with the library and the other examples, as in an umbrella. The lock is made with
      # Hex.
      deps_path: "../../deps",
      lockfile: "../../mix.lock",
      build_path: "../../_build/examples"
    ]
  end

  def application, do: [mod: {Rooms.Application, []}, extra_applications: [:logger]]

  # The second builds the library where there is no release of it; without Hex, Foundation does.
  defp deps do
    rustler = [{:rustler, ">= 0.36.0", runtime: false}]
    [{:foundation, path: "../.."}] ++ if(File.dir?("../../deps/rustler"), do: rustler, else: [])
  end
end
