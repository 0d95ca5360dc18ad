defmodule Foundation.Resilience do
  alias Foundation.{Bulkhead, CircuitBreaker, ErrorContext, Options, RateLimiter, Retry, Timeout}
  alias Foundation.Rejected
  alias Foundation.Telemetry.Span

  @policy [
    retry: [
      type: {:or, [:keyword, {:in, [nil]}]},
      default: nil,
      doc: "Options of `Foundation.Retry`."
    ],
    rate_limiter: [
      type: :any,
      default: nil,
      doc: "A name, or `[name: …, cost: …, wait: …]`, of `Foundation.RateLimiter`."
    ],
    circuit_breaker: [
      type: :any,
      default: nil,
      doc: "A name of `Foundation.CircuitBreaker`."
    ],
    bulkhead: [
      type: :any,
      default: nil,
      doc: "A name, or `[name: …, wait: …, weight: …]`, of `Foundation.Bulkhead`."
    ],
    timeout: [
      type: {:or, [Options.time(0), {:in, [nil]}]},
      default: nil,
      doc: "How many milliseconds the function may take."
    ]
  ]

  @moduledoc """
  Runs a call through a retry, a rate limiter, a circuit breaker, a bulkhead and a timeout.

      Foundation.Resilience.run(
        [
          retry: [max_attempts: 3],
          rate_limiter: [name: MyApp.Rate, cost: [requests: 1, tokens: 1_200], wait: 5_000],
          circuit_breaker: MyApp.Breaker,
          bulkhead: [name: MyApp.Calls, wait: 1_000],
          timeout: 30_000
        ],
        fn -> complete(prompt) end
      )

  The order is always this one, from the outside in: retry, rate limiter, circuit breaker, bulkhead,
  timeout, function. Each attempt passes all of them again. Rejections inside the breaker do not
  count as failures of the service; a timeout does.

  ## Timeout

  With `timeout:` the function runs in a process of its own, which has the caller's error context
  and span. It dies with its caller. When the time is over it is killed, its permit comes back, and
  the result is `{:error, %Foundation.Timeout{}}`. Its exceptions, throws and exits
  reach the caller. No message, link or monitor is left.

  ## Consistency

  That of each part. A call that returns holds nothing.

  ## Telemetry events

  Those of the parts.
  """

  @type policy :: keyword

  @doc """
  Runs a function under a policy, and returns its result.

  The keys of a policy, each of which may be missing:

  #{Options.docs(@policy)}

  Returns `{:error, %Foundation.Rejected{}}` where a part rejects the call, and
  `{:error, %Foundation.Timeout{}}` where its time is over. Raises `ArgumentError` for an unknown
  key.

  **Cost:** that of the parts; with `timeout:` a process.

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Policy, max: 1)
      iex> Foundation.Resilience.run([bulkhead: MyApp.Policy, timeout: 1_000], fn -> {:ok, 42} end)
      {:ok, 42}
  """
  @doc since: "0.1.0"
  @spec run(policy, (() -> result)) :: result | {:error, Rejected.t() | Timeout.t()}
        when result: term
  def run(policy, fun) when is_function(fun, 0) do
    policy = Options.validate!(policy, @policy, "the policy of Foundation.Resilience")
    limiter = part!(policy[:rate_limiter], :rate_limiter, cost: 1, wait: 0)
    bulkhead = part!(policy[:bulkhead], :bulkhead, wait: nil, weight: 1)

    call = fn ->
      limited(limiter, fn ->
        broken(policy[:circuit_breaker], fn ->
          bounded(bulkhead, fn -> timed(policy[:timeout], fun) end)
        end)
      end)
    end

    if options = policy[:retry], do: Retry.run(call, options), else: call.()
  end

  def run(_policy, fun) do
    raise ArgumentError, "expected a function of arity 0, got: #{inspect(fun)}"
  end

  # `{name, options}` of a name or a keyword list; `nil` where there is none.
  defp part!(nil, _part, _defaults), do: nil

  defp part!([_ | _] = given, part, defaults) do
    schema =
      for {key, default} <- [name: nil] ++ defaults, do: {key, type: :any, default: default}

    given = Options.validate!(given, schema, "#{inspect(part)} of the policy")

    unless given[:name],
      do: raise(ArgumentError, "expected :name of #{inspect(part)} of the policy to be given")

    Keyword.pop!(given, :name)
  end

  defp part!(name, _part, defaults), do: {name, defaults}

  defp limited(nil, fun), do: fun.()

  defp limited({name, options}, fun) do
    with :ok <- RateLimiter.take(name, options[:cost], wait: options[:wait]), do: fun.()
  end

  defp broken(nil, fun), do: fun.()
  defp broken(name, fun), do: CircuitBreaker.run(name, fun)

  defp bounded(nil, fun), do: fun.()
  defp bounded({name, options}, fun), do: Bulkhead.run(name, fun, options)

  defp timed(none, fun) when none in [nil, :infinity], do: fun.()

  # The function runs in a process of its own, which is linked to a guard. The guard monitors the
  # caller. Over a link, the death of the function's process would reach the caller, and a normal
  # exit of the caller would go unnoticed. When the guard has ended, nothing is left.
  defp timed(ms, fun) do
    caller = self()
    reply = make_ref()
    context = ErrorContext.get_context()
    span = Span.propagate_context()

    call = fn ->
      send(caller, {reply, protected(fn -> carried(context, span, fun) end)})
    end

    {guard, monitor} = spawn_monitor(fn -> guard(caller, call, {:timeout, reply}, ms) end)

    receive do
      {:DOWN, ^monitor, :process, ^guard, reason} ->
        receive do
          # Also one that came just before its time was over.
          {^reply, outcome} -> finish(outcome)
        after
          0 -> ended(reason, reply, ms)
        end
    end
  end

  defp guard(caller, call, timeout, ms) do
    Process.flag(:trap_exit, true)
    of_caller = Process.monitor(caller)
    runner = spawn_link(call)

    receive do
      {:EXIT, ^runner, reason} ->
        Process.demonitor(of_caller, [:flush])
        exit(reason)

      {:DOWN, ^of_caller, :process, ^caller, _reason} ->
        kill(runner)
    after
      ms ->
        kill(runner)
        Process.demonitor(of_caller, [:flush])
        exit(timeout)
    end
  end

  # Returns when it is dead: what it held has come back.
  defp kill(runner) do
    Process.exit(runner, :kill)

    receive do
      {:EXIT, ^runner, _reason} -> :ok
    end
  end

  defp ended({:timeout, reply}, reply, ms), do: {:error, %Timeout{ms: ms}}
  defp ended(reason, _reply, _ms), do: exit(reason)

  defp carried(context, span, fun) do
    ErrorContext.with_context(context, fn ->
      if span, do: Span.with_propagated_context(span, fun), else: fun.()
    end)
  end

  defp protected(fun) do
    {:return, fun.()}
  catch
    kind, reason -> {kind, reason, __STACKTRACE__}
  end

  defp finish({:return, value}), do: value
  defp finish({kind, reason, stacktrace}), do: :erlang.raise(kind, reason, stacktrace)
end
