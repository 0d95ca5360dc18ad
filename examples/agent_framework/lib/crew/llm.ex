defmodule Crew.LLM do
  @moduledoc """
  The language model, as agents call it: bounded, repeated where that helps, and asked once for each
  prompt.

  The model itself is a module, `config :crew, llm: MyModel`. A cached answer costs no call, and
  agents that ask the same at once share one. Each call passes the limits of the provider, a circuit
  breaker, a bound on calls at a time, and a timeout. The breaker counts errors and timeouts, and
  refuses calls while the provider is down.
  """

  alias Foundation.{Cache, Resilience}
  alias Foundation.Telemetry.Span

  @doc "Answers a prompt. May take long, fail or raise."
  @callback complete(prompt :: String.t()) :: {:ok, String.t()} | {:error, term}

  @doc "The processes that stand for the bounds and the cache, for a supervisor."
  @spec children() :: [Supervisor.child_spec() | {module, keyword}]
  def children do
    [
      {Foundation.RateLimiter,
       name: Crew.LLM.Rate, limits: [requests: {6_000, 60_000}, tokens: {900_000, 60_000}]},
      {Foundation.CircuitBreaker, name: Crew.LLM.Breaker, failure_rate: 0.8, open_ms: 1_000},
      {Foundation.Bulkhead, name: Crew.LLM.Calls, max: 10, queue: 1_000},
      {Foundation.Cache, name: Crew.LLM.Answers, max_bytes: 10_000_000, ttl: 3_600_000}
    ]
  end

  @doc "Answers a prompt, from the cache if it is there."
  @spec complete(String.t()) :: {:ok, String.t()} | {:error, term}
  def complete(prompt) do
    Cache.fetch(Crew.LLM.Answers, prompt, fn ->
      Span.with_span_fun(:llm, %{prompt_bytes: byte_size(prompt)}, fn -> ask(prompt) end)
    end)
  end

  defp ask(prompt) do
    model = Application.fetch_env!(:crew, :llm)
    Resilience.run(policy(prompt), fn -> model.complete(prompt) end)
  end

  defp policy(prompt) do
    [
      retry: [max_attempts: 10, base_ms: 10, max_ms: 1_000],
      rate_limiter: [
        name: Crew.LLM.Rate,
        cost: [requests: 1, tokens: tokens(prompt)],
        wait: 10_000
      ],
      circuit_breaker: Crew.LLM.Breaker,
      bulkhead: [name: Crew.LLM.Calls, wait: 10_000],
      timeout: 5_000
    ]
  end

  # A rule of thumb: four bytes of English are a token.
  defp tokens(prompt), do: div(byte_size(prompt), 4) + 1
end
