defmodule Foundation.Legacy.Telemetry do
  @moduledoc false
  # Whether spans and windows are kept in the process dictionary, for an application that is being
  # migrated. The native engine's hot functions are told when that changes, so that it costs them
  # nothing to ask.

  alias Foundation.{FeatureFlags, Native}

  @flag :use_genserver_telemetry

  @doc """
  Whether the legacy backends run. Raises where they would and nothing may.
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
  Whether they run, or have run since the start, so that there may still be something in them.
  """
  @spec ever?() :: boolean
  def ever?, do: FeatureFlags.mode(@flag) != :shared

  @doc """
  Has the native engine's functions say `nil` while the legacy backends run, and answer again
  after. A process with native spans open is answered all the same.

  Called when the tables are opened and whenever a flag has changed.
  """
  @spec divert(FeatureFlags.Table.mode()) :: :ok
  def divert(mode \\ FeatureFlags.mode(@flag)) do
    Native.telemetry_divert(mode in [:legacy, :refused])
    :ok
  end
end
