defmodule Foundation.Eventually do
  @moduledoc """
  Waits for a condition that another process makes true.

  A test that sleeps for a guessed time is slow or flaky. This module polls, and returns as soon as
  the condition holds. At the deadline it reports what it last saw.
  """

  @poll_ms 2

  @doc """
  Runs `condition` until it returns a truthy value and returns that value.

  An assertion that fails inside `condition` counts as "not yet". At the deadline the last failure
  is raised, or an assertion error with the last value.
  """
  @spec eventually((() -> as_boolean(value)), pos_integer) :: value when value: term
  def eventually(condition, timeout_ms \\ 30_000) when is_function(condition, 0) do
    poll(condition, System.monotonic_time(:millisecond) + timeout_ms, timeout_ms)
  end

  defp poll(condition, deadline, timeout_ms) do
    case attempt(condition) do
      {:holds, value} ->
        value

      {:not_yet, fail} ->
        if System.monotonic_time(:millisecond) >= deadline, do: fail.(timeout_ms)

        receive do
        after
          @poll_ms -> poll(condition, deadline, timeout_ms)
        end
    end
  end

  defp attempt(condition) do
    case condition.() do
      falsy when falsy in [nil, false] ->
        {:not_yet, &ExUnit.Assertions.flunk("not within #{&1} ms, last: #{inspect(falsy)}")}

      value ->
        {:holds, value}
    end
  rescue
    error in ExUnit.AssertionError ->
      stacktrace = __STACKTRACE__
      {:not_yet, fn _timeout_ms -> reraise error, stacktrace end}
  end
end
