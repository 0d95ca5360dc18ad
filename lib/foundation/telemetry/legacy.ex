defmodule Foundation.Telemetry.Legacy do
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
  Has the native engine's functions say `nil` while the legacy backends run, and answer again after.

  Called when the tables are opened and whenever a flag has changed.
  """
  @spec divert(FeatureFlags.Table.mode()) :: :ok
  def divert(mode \\ FeatureFlags.mode(@flag)) do
    Native.telemetry_divert(mode in [:legacy, :refused])
    :ok
  end
end
