defmodule Foundation do
  @moduledoc """
  Supervised, observable, concurrent state in place of the process dictionary, with the
  hot tables in Rust.
  """

  @doc """
  The engine that new tables get: `:native` (Rust) or `:ets` (pure Elixir).

  Decided at the start of the application from `config :foundation, engine: …`, and
  constant from then on. O(1).

  Raises `RuntimeError` when the `:foundation` application was never started.

      iex> Foundation.engine() in [:native, :ets]
      true
  """
  @doc since: "0.1.0"
  @spec engine() :: :native | :ets
  defdelegate engine, to: Foundation.Engine, as: :selected

  @doc """
  The version of this application.

      iex> Version.parse!(Foundation.version()).major
      0
  """
  @doc since: "0.1.0"
  @spec version() :: String.t()
  def version, do: unquote(Mix.Project.config()[:version])
end
