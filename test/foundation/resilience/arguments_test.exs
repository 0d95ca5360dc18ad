defmodule Foundation.Resilience.ArgumentsTest do
  # Every public function with a term of a wrong type at every position: it raises ArgumentError,
  # and takes and holds nothing.
  use Foundation.Conformance.Resilience

  alias Foundation.{NativeArguments, Resilience, Retry}

  @functions [
    {Bulkhead, :start_link, [:options]},
    {Bulkhead, :child_spec, [:spec_options]},
    {Bulkhead, :run, [:bulkhead, :fun, :call_options]},
    {Bulkhead, :acquire, [:bulkhead, :call_options]},
    {Bulkhead, :release, [:permit]},
    {Bulkhead, :info, [:bulkhead]},
    {Bulkhead, :resize, [:bulkhead, :max]},
    {CircuitBreaker, :start_link, [:options]},
    {CircuitBreaker, :child_spec, [:spec_options]},
    {CircuitBreaker, :run, [:breaker, :fun]},
    {CircuitBreaker, :ask, [:breaker]},
    {CircuitBreaker, :record, [:call, :outcome]},
    {CircuitBreaker, :state, [:breaker]},
    {CircuitBreaker, :info, [:breaker]},
    {CircuitBreaker, :isolate, [:breaker]},
    {CircuitBreaker, :reset, [:breaker]},
    {RateLimiter, :start_link, [:options]},
    {RateLimiter, :child_spec, [:spec_options]},
    {RateLimiter, :take, [:limiter, :cost, :call_options]},
    {RateLimiter, :reserve, [:limiter, :cost, :call_options]},
    {RateLimiter, :settle, [:reservation, :cost]},
    {RateLimiter, :info, [:limiter]},
    {Retry, :run, [:retry_fun, :retry_options]},
    {Resilience, :run, [:policy, :fun]}
  ]

  test "the arguments of every public function are known" do
    known = for {module, function, types} <- @functions, do: {module, function, length(types)}

    for module <- [Bulkhead, CircuitBreaker, RateLimiter, Retry, Resilience],
        {name, functions} <- Enum.group_by(module.__info__(:functions), &elem(&1, 0)),
        name not in [:__struct__, :validate!] do
      # The others have defaults.
      {name, arity} = Enum.max(functions)
      assert {module, name, arity} in known
    end
  end

  for {module, function, types} <- @functions, {type, position} <- Enum.with_index(types) do
    conform "#{inspect(module)}.#{function} raises for any term but #{type} at argument #{position}",
            %{engine: engine} do
      names = start(engine)
      before = figures(names)

      for {term, tag} <- NativeArguments.terms(), not accepted?(unquote(type), term, tag) do
        arguments = for type <- unquote(types), do: valid(type, names)
        arguments = List.replace_at(arguments, unquote(position), term)

        assert_raise ArgumentError, fn ->
          result = apply(unquote(module), unquote(function), arguments)
          flunk("took #{inspect(term)} and returned #{inspect(result)}")
        end
      end

      assert figures(names) == before
    end
  end

  defp start(engine) do
    names = %{
      bulkhead: start!(Bulkhead, engine, max: 10),
      breaker: start!(CircuitBreaker, engine, []),
      limiter: start!(RateLimiter, engine, limit: {10, 3_600_000})
    }

    {:ok, permit} = Bulkhead.acquire(names.bulkhead)
    {:ok, call} = CircuitBreaker.ask(names.breaker)
    {:ok, reservation} = RateLimiter.reserve(names.limiter, 1)
    Map.merge(names, %{permit: permit, call: call, reservation: reservation})
  end

  # A limiter's time to its reset passes.
  defp figures(names) do
    limiter = RateLimiter.info(names.limiter)

    {Map.take(Bulkhead.info(names.bulkhead), [:in_use, :max, :waiting]),
     Map.take(CircuitBreaker.info(names.breaker), [:state, :calls, :failures]), limiter.taken,
     limiter.limits.default.used}
  end

  defp valid(type, names) when is_map_key(names, type), do: Map.fetch!(names, type)
  defp valid(type, _names) when type in [:fun, :retry_fun], do: fn -> :ok end
  defp valid(:max, _names), do: 10
  defp valid(:outcome, _names), do: :ok
  defp valid(:cost, _names), do: 1
  defp valid(_options, _names), do: []

  defp accepted?(type, term, _tag) when type in [:fun, :retry_fun] and is_function(term, 0),
    do: true

  defp accepted?(type, _term, tag)
       when type in [:call_options, :retry_options, :policy],
       do: tag == :empty

  # Any keyword list; start_link/1 checks the options.
  defp accepted?(:spec_options, term, _tag), do: Keyword.keyword?(term)
  defp accepted?(:max, _term, tag), do: tag == :natural
  # One above the limit is no error of the caller's, and nothing of a list costs nothing.
  defp accepted?(:cost, term, _tag), do: term == [] or (is_integer(term) and term >= 0)
  defp accepted?(_type, _term, _tag), do: false
end
