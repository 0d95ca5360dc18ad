defmodule Foundation.Resilience.Events do
  @moduledoc false
  # Emits the changes of state of a circuit breaker.

  @opened [:foundation, :circuit_breaker, :open]
  @half_opened [:foundation, :circuit_breaker, :half_open]
  @closed [:foundation, :circuit_breaker, :close]
  @isolated [:foundation, :circuit_breaker, :isolate]

  @spec emit(Foundation.Resilience.Instance.target(), [Foundation.Native.transition()]) :: :ok
  def emit(target, transitions) do
    Enum.each(transitions, fn {state, calls, failures, slow, open_ms} ->
      measurements = %{calls: calls, failures: failures, slow: slow, open_ms: open_ms}
      :telemetry.execute(event(state), measurements, %{name: target})
    end)
  end

  defp event(:open), do: @opened
  defp event(:half_open), do: @half_opened
  defp event(:closed), do: @closed
  defp event(:isolated), do: @isolated
end
