defmodule Foundation do
  @moduledoc """
  Supervised, observable, concurrent state in place of the process dictionary, with the
  hot tables in Rust.

  Where to start reading:

    * `Foundation.Registry` - names for processes: Elixir's `Registry`, faster, and its
      entries outlive a crash of its owner
    * `Foundation.AgentRegistry` - agents by id, with metadata and telemetry
    * `Foundation.ErrorContext` - what a request was doing when it failed
    * `Foundation.Telemetry.Span` and `Foundation.Telemetry.SampledEvents` - spans, and
      events deduplicated and batched
    * `Foundation.FeatureFlags` and `Foundation.Migration` - the way from the process
      dictionary to all of it, and back
    * `Foundation.HealthCheck` - whether all of it is well
    * `Foundation.Config` - the settings

  ## Engines

  Every hot table has two engines that keep one contract. `:native` is a Rust library;
  `:ets` is pure Elixir, and runs where the library cannot be loaded. Which of them new
  tables get is decided once, at the start of the application: see `:engine` in
  `Foundation.Config`, and `engine/0`.
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
  The version of this application, as it was compiled. O(1).

      iex> Version.parse!(Foundation.version()).major
      0
  """
  @doc since: "0.1.0"
  @spec version() :: String.t()
  def version, do: unquote(Mix.Project.config()[:version])
end
