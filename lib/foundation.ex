defmodule Foundation do
  @external_resource readme = Path.expand("../README.md", __DIR__)

  # The README and this page share the text between the markers.
  @moduledoc readme |> File.read!() |> String.split("<!-- MDOC -->") |> Enum.at(1)

  @doc """
  Returns the engine of new tables: `:native` (Rust) or `:ets` (pure Elixir).

  The application decides it once, at its start, from `config :foundation, engine: …`. Both engines
  keep one contract; see `:engine` in `Foundation.Config`.

  **Cost:** O(1).

  Raises `RuntimeError` when the `:foundation` application was never started.

      iex> Foundation.engine() in [:native, :ets]
      true
  """
  @doc since: "0.1.0"
  @spec engine() :: :native | :ets
  defdelegate engine, to: Foundation.Engine, as: :selected

  @doc """
  Returns the version of this library.

  **Cost:** O(1). The version is fixed at compile time.

      iex> Version.parse!(Foundation.version()).major
      0
  """
  @doc since: "0.1.0"
  @spec version() :: String.t()
  def version, do: unquote(Mix.Project.config()[:version])
end
