defmodule Foundation.Retry do
  alias Foundation.{Options, Rejected}
  alias Foundation.Resilience.{Budget, Sleep}

  @longest 31 * 86_400_000
  @schema [
    max_attempts: [type: {:from, 1}, default: 3, doc: "How often the function runs at most."],
    base_ms: [
      type: {:integer, 0..@longest},
      default: 100,
      doc: "The first wait, in milliseconds. Each wait doubles the one before."
    ],
    max_ms: [type: {:integer, 0..@longest}, default: 10_000, doc: "The longest wait."],
    jitter: [
      type: {:in, [:full, :equal, :decorrelated, :none]},
      default: :full,
      doc: """
      How a wait is drawn. `:full`: from 0 to the wait. `:equal`: from half of it to all of it.
      `:decorrelated`: from `:base_ms` to three times the wait before. `:none`: the wait itself.
      """
    ],
    budget_ms: [
      type: Options.time(0),
      default: :infinity,
      doc: "The time for everything: no attempt starts after it, and no wait ends after it."
    ],
    retry?: [
      type: {:fun, 1},
      default: nil,
      doc: """
      Decides whether to try again. It is given `{:return, value}` or `{:raise, exception}` and
      answers `true`, `false` or `{:after, ms}`. By default `:error`, `{:error, _}` and exceptions
      are retried, and a `Foundation.Rejected` after its `:retry_after_ms`.
      """
    ],
    retry_ratio: [
      type: {:or, [{:number, :from, 0, 1_000}, {:in, [:infinity]}]},
      default: 0.1,
      doc: "How many retries each run earns for all callers under `:name`."
    ],
    name: [
      type: {:or, [:atom, {:in, [nil]}]},
      default: nil,
      doc: "The name of the shared budget of retries; without one there is no such budget."
    ]
  ]

  @moduledoc """
  Runs a function again when it fails, with waits that grow, within a deadline and a budget.

      Foundation.Retry.run(fn -> complete(prompt) end, max_attempts: 5, budget_ms: 30_000)

  The n-th wait is `min(max_ms, base_ms * 2^(n-1))` before jitter.

  Retries multiply the load of a service that is failing already. With `name:` all callers share a
  budget: each run earns `:retry_ratio` of a retry, and a retry spends one. So retries are at most
  a tenth of the calls by default. Up to 1,000 earned retries are saved up.

  Exits and throws are not retried.

  ## Consistency

  The budget is one atomic counter for each name. It is never overdrawn.

  ## Telemetry events

  | event | measurements | metadata |
  |---|---|---|
  | `[:foundation, :retry, :attempt]` before each wait | `:attempt`, the one that failed, from 1; `:wait_ms` | `:name` |
  """

  @event [:foundation, :retry, :attempt]

  @doc """
  Runs a function until it succeeds or there is no attempt left, and returns the last result.

  The last exception is raised again with its stacktrace. A function of arity 1 gets the number of
  the attempt, from 1.

  Options:

  #{Options.docs(@schema)}

  **Cost:** that of the function and the waits. It runs in the caller.

      iex> Foundation.Retry.run(fn attempt -> if attempt < 3, do: :error, else: {:ok, attempt} end,
      ...>   base_ms: 1
      ...> )
      {:ok, 3}
  """
  @doc since: "0.1.0"
  @spec run((() -> result) | (attempt :: pos_integer -> result), keyword) :: result
        when result: term
  def run(fun, options \\ [])

  def run(fun, options) when is_function(fun, 0) or is_function(fun, 1) do
    options = validate!(options)
    if earns?(options), do: Budget.earn(options.name, options.retry_ratio)
    attempt(fun, options, 1, options.base_ms)
  end

  def run(fun, _options) do
    raise ArgumentError, "expected a function of arity 0 or 1, got: #{inspect(fun)}"
  end

  @doc false
  def validate!(options) do
    options =
      options |> Options.validate!(@schema, "the options of Foundation.Retry") |> Map.new()

    deadline = if options.budget_ms == :infinity, do: :infinity, else: now() + options.budget_ms
    Map.put(options, :deadline, deadline)
  end

  defp earns?(options), do: options.name != nil and options.retry_ratio != :infinity

  defp attempt(fun, options, attempt, previous) do
    outcome =
      try do
        {:return, call(fun, attempt)}
      rescue
        exception -> {:raise, exception, __STACKTRACE__}
      end

    with true <- attempt < options.max_attempts,
         {:ok, given} <- retry(options, outcome),
         wait = given || backoff(options, attempt, previous),
         true <- in_time?(options, wait),
         true <- not earns?(options) or Budget.spend(options.name) do
      measurements = %{attempt: attempt, wait_ms: wait}
      :telemetry.execute(@event, measurements, %{name: options.name})
      Sleep.sleep(wait)

      # The sleep may have ended late.
      if in_time?(options, 0),
        do: attempt(fun, options, attempt + 1, wait),
        else: finish(outcome)
    else
      _no_retry -> finish(outcome)
    end
  end

  defp call(fun, _attempt) when is_function(fun, 0), do: fun.()
  defp call(fun, attempt), do: fun.(attempt)

  defp finish({:return, value}), do: value
  defp finish({:raise, exception, stacktrace}), do: reraise(exception, stacktrace)

  # `{:ok, ms}` with a wait that is given, `{:ok, nil}`, or `:no`.
  defp retry(%{retry?: nil}, outcome), do: default(outcome)

  defp retry(%{retry?: retry?}, outcome) do
    case retry?.(shown(outcome)) do
      true ->
        {:ok, nil}

      false ->
        :no

      {:after, ms} when is_integer(ms) and ms >= 0 ->
        {:ok, ms}

      other ->
        raise ArgumentError,
              "expected :retry? to return true, false or {:after, ms}, got: #{inspect(other)}"
    end
  end

  defp shown({:return, _value} = outcome), do: outcome
  defp shown({:raise, exception, _stacktrace}), do: {:raise, exception}

  defp default({:return, :error}), do: {:ok, nil}
  defp default({:return, {:error, %Rejected{} = rejected}}), do: {:ok, rejected.retry_after_ms}
  defp default({:return, {:error, _reason}}), do: {:ok, nil}
  defp default({:return, _value}), do: :no
  defp default({:raise, %Rejected{} = rejected, _}), do: {:ok, rejected.retry_after_ms}
  defp default({:raise, _exception, _stacktrace}), do: {:ok, nil}

  defp in_time?(%{deadline: :infinity}, _wait), do: true
  defp in_time?(%{deadline: deadline}, wait), do: now() + wait <= deadline

  defp backoff(%{jitter: :decorrelated} = options, _attempt, previous) do
    highest = max(options.base_ms, 3 * previous)
    min(options.max_ms, options.base_ms + uniform(highest - options.base_ms))
  end

  defp backoff(options, attempt, _previous) do
    # Further doublings change nothing: the longest wait is a month.
    wait = min(options.max_ms, options.base_ms * 2 ** min(attempt - 1, 40))

    case options.jitter do
      :none -> wait
      :full -> uniform(wait)
      :equal -> wait - uniform(div(wait, 2))
    end
  end

  # From 0 to `most`. Without the process dictionary, where `:rand.uniform/1` keeps its state.
  defp uniform(most) do
    {number, _state} = :rand.uniform_s(most + 1, :rand.seed_s(:exsss))
    number - 1
  end

  defp now, do: System.monotonic_time(:millisecond)
end
