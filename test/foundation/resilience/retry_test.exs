defmodule Foundation.RetryTest do
  use Foundation.Case, async: true

  alias Foundation.{Rejected, Retry}

  doctest Foundation.Retry

  defp count(answers) do
    {:ok, agent} = Agent.start_link(fn -> answers end)

    fn ->
      case Agent.get_and_update(agent, fn [first | rest] -> {first, rest} end) do
        fun when is_function(fun) -> fun.()
        answer -> answer
      end
    end
  end

  # The waits of a run, in order.
  defp waits(name, fun) do
    test = self()
    id = {__MODULE__, make_ref()}
    :telemetry.attach(id, [:foundation, :retry, :attempt], &__MODULE__.handle/4, {test, name})
    result = fun.()
    :telemetry.detach(id)
    {result, received([])}
  end

  def handle(_event, measurements, metadata, {test, name}) do
    if metadata.name == name and self() == test,
      do: send(test, {:wait, measurements.attempt, measurements.wait_ms})
  end

  defp received(waits) do
    receive do
      {:wait, attempt, ms} -> received([{attempt, ms} | waits])
    after
      0 -> Enum.reverse(waits)
    end
  end

  test "errors and exceptions are retried, other results are returned" do
    assert Retry.run(count([:error, {:error, 1}, fn -> raise "x" end, :ok]),
             base_ms: 0,
             max_attempts: 4
           ) == :ok

    assert Retry.run(count([nil, :ok]), base_ms: 0) == nil
    assert Retry.run(count([:error, {:error, 2}]), base_ms: 0, max_attempts: 2) == {:error, 2}
  end

  test "exits and throws are not retried" do
    assert catch_exit(Retry.run(count([fn -> exit(:x) end, :ok]), base_ms: 0)) == :x
    assert catch_throw(Retry.run(count([fn -> throw(:x) end, :ok]), base_ms: 0)) == :x
  end

  test "the last exception is raised with its stacktrace" do
    Retry.run(fn -> raise "last" end, base_ms: 0, max_attempts: 2)
  rescue
    error ->
      assert Exception.message(error) == "last"
      assert Enum.any?(__STACKTRACE__, fn {module, _, _, _} -> module == __MODULE__ end)
  end

  test "a function of arity 1 gets the number of the attempt" do
    assert Retry.run(fn n -> if n < 3, do: :error, else: n end, base_ms: 0) == 3
  end

  test "waits double up to max_ms" do
    options = [base_ms: 1, max_ms: 4, jitter: :none, max_attempts: 5, name: nil]
    {:error, waits} = waits(nil, fn -> Retry.run(fn -> :error end, options) end)
    assert waits == [{1, 1}, {2, 2}, {3, 4}, {4, 4}]
  end

  test "jitter keeps within its bounds" do
    for {jitter, range} <- [full: 0..8, equal: 4..8, decorrelated: 8..24], _ <- 1..10 do
      options = [base_ms: 8, jitter: jitter, max_attempts: 2]
      {:error, [{1, ms}]} = waits(nil, fn -> Retry.run(fn -> :error end, options) end)
      assert ms in range, "#{jitter}: #{ms}"
    end
  end

  test "a rejection is retried after its time, and retry? may name one" do
    rejected = {:error, %Rejected{by: :rate_limiter, name: :x, reason: :x, retry_after_ms: 3}}
    {:ok, waits} = waits(nil, fn -> Retry.run(count([rejected, :ok]), base_ms: 60_000) end)
    assert waits == [{1, 3}]

    retry? = fn
      {:return, :later} -> {:after, 2}
      {:raise, %RuntimeError{}} -> true
      {:return, _value} -> false
    end

    run = fn ->
      Retry.run(count([:later, fn -> raise "x" end, :error]), base_ms: 0, retry?: retry?)
    end

    assert {:error, [{1, 2}, {2, 0}]} = waits(nil, run)
    wrong = fn -> Retry.run(fn -> :error end, retry?: fn _ -> :maybe end) end
    assert_raise ArgumentError, ~r/:retry\?/, wrong
  end

  test "no wait ends and no attempt starts after budget_ms" do
    options = [base_ms: 10_000, jitter: :none, budget_ms: 1_000]
    assert Retry.run(count([:error]), options) == :error
    assert Retry.run(count([:error]), base_ms: 1, jitter: :none, budget_ms: 0) == :error
  end

  test "callers under one name make at most a tenth as many retries" do
    name = unique_name("retry")
    run = fn -> Retry.run(fn -> :error end, name: name, base_ms: 0) end
    {_results, waits} = waits(name, fn -> for _ <- 1..100, do: run.() end)
    assert length(waits) == 10
    options = [name: name, base_ms: 0, retry_ratio: 0.5]
    for _ <- 1..4, do: Retry.run(fn -> :ok end, options)
    {:error, waits} = waits(name, fn -> Retry.run(fn -> :error end, options) end)
    assert length(waits) == 2
    options = Keyword.put(options, :retry_ratio, :infinity)
    {:error, waits} = waits(name, fn -> Retry.run(fn -> :error end, options) end)
    assert length(waits) == 2
  end

  test "wrong options and arguments raise" do
    for options <- [
          [max_attempts: 0],
          [base_ms: -1],
          [jitter: :some],
          [budget_ms: 1.5],
          [retry?: fn -> true end],
          [retry_ratio: -1],
          [name: "name"],
          [max_attempt: 1],
          :wrong
        ] do
      assert_raise ArgumentError, fn -> Retry.run(fn -> :ok end, options) end
    end

    for fun <- [nil, :fun, fn _, _ -> :ok end],
        do: assert_raise(ArgumentError, fn -> Retry.run(fun) end)
  end
end
