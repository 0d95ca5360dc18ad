defmodule Foundation.Legacy.Windows do
  @moduledoc false
  # For migration only (`use_genserver_telemetry` off): keeps windows in the dictionary of each
  # process. They are unbounded and are gone when the process exits.

  @doc """
  Whether a window of this process opens with this event.
  """
  @spec opens?(term, non_neg_integer) :: boolean
  def opens?(key, window) do
    now = System.monotonic_time(:millisecond)
    windows = Process.get(:event_cache, %{})

    case windows do
      %{^key => expires} when now < expires ->
        false

      _windows ->
        Process.put(:event_cache, Map.put(windows, key, now + window))
        true
    end
  end
end
