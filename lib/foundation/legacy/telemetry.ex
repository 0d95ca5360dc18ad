defmodule Foundation.Legacy.Telemetry do
  @moduledoc false
  # Decides whether spans and windows are kept in the process dictionary, for an application that
  # migrates. The hot functions of the native engine are switched when that changes, so they need
  # not ask.

  alias Foundation.{FeatureFlags, Native}

  @flag :use_genserver_telemetry

  @doc """
  Returns whether the legacy backends run. Raises if they would run while the process dictionary
  is forbidden.
  """
  @spec on?() :: boolean
  def on? do
    case FeatureFlags.mode(@flag) do
      mode when mode in [:legacy, :refused] ->
        FeatureFlags.allow_process_dictionary!(@flag)
        true

      _shared ->
        false
    end
  end

  @doc """
  Returns whether they run, or have run since the start, so that they may still hold entries.
  """
  @spec ever?() :: boolean
  def ever?, do: FeatureFlags.mode(@flag) != :shared

  @doc """
  Makes the functions of the native engine return `nil` while the legacy backends run. A process
  with open native spans still gets an answer.

  Called when the tables are opened and whenever a flag has changed.
  """
  @spec divert(FeatureFlags.Table.mode()) :: :ok
  def divert(mode \\ FeatureFlags.mode(@flag)) do
    Native.telemetry_divert(mode in [:legacy, :refused])
    :ok
  end
end
