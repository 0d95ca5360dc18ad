defmodule Foundation.Telemetry.Legacy do
  @moduledoc false
  # Whether spans and windows are kept in the process dictionary, for an application that is being
  # migrated.

  alias Foundation.FeatureFlags

  @flag :use_genserver_telemetry

  @doc """
  Whether the legacy backends run. Raises where they would and nothing may.
  """
  @spec on?() :: boolean
  def on? do
    case FeatureFlags.mode(@flag) do
      :legacy ->
        true

      :refused ->
        raise "expected no use of the process dictionary while :enforce_no_process_dict is on, " <>
                "got one because #{inspect(@flag)} is off"

      _shared ->
        false
    end
  end
end
