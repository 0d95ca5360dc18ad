defmodule Foundation.Rejected do
  @moduledoc """
  A refusal by a bulkhead, a circuit breaker or a rate limiter.

  It is returned as `{:error, %Foundation.Rejected{}}`, and can be raised and logged as it is.

    * `:by` - `:bulkhead`, `:circuit_breaker` or `:rate_limiter`.
    * `:name` - the instance's name, or `{name, key}`.
    * `:reason` - see below.
    * `:retry_after_ms` - the time after which a retry may succeed, or `nil` if it is unknown.

  | reason | by | meaning |
  |---|---|---|
  | `:full` | bulkhead | no permit is left, and the call does not wait |
  | `:timeout` | bulkhead | no permit came within the time to wait |
  | `:open` | circuit breaker | too many calls failed |
  | `:isolated` | circuit breaker | it was isolated by hand |
  | `:probing` | circuit breaker | it is half-open, and all probes are out |
  | `:rate_limited` | rate limiter | the limit is used up |
  | `:exceeds_limit` | rate limiter | the cost is above the limit itself |
  | `:max_keys` | all | the instance has no place for another key |

  `Foundation.Retry` waits for `:retry_after_ms` before it tries again.
  """

  defexception [:by, :name, :reason, :retry_after_ms]

  @type t :: %__MODULE__{
          by: :bulkhead | :circuit_breaker | :rate_limiter,
          name: atom | {atom, key :: term},
          reason: atom,
          retry_after_ms: non_neg_integer | nil
        }

  @impl true
  def message(%__MODULE__{} = rejected) do
    "#{by(rejected.by)} #{inspect(rejected.name)} rejected the call: " <>
      reason(rejected.reason) <> retry_after(rejected.retry_after_ms)
  end

  defp by(:bulkhead), do: "bulkhead"
  defp by(:circuit_breaker), do: "circuit breaker"
  defp by(:rate_limiter), do: "rate limiter"
  defp by(other), do: inspect(other)

  defp reason(:full), do: "no permit is left"
  defp reason(:timeout), do: "no permit came in time"
  defp reason(:open), do: "it is open"
  defp reason(:isolated), do: "it is isolated"
  defp reason(:probing), do: "it is half-open and all probes are out"
  defp reason(:rate_limited), do: "the limit is used up"
  defp reason(:exceeds_limit), do: "the cost is above the limit"
  defp reason(:max_keys), do: "it has no place for another key"
  defp reason(other), do: inspect(other)

  defp retry_after(nil), do: ""
  defp retry_after(ms), do: " (retry after #{ms} ms)"
end
