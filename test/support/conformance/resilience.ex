defmodule Foundation.Conformance.Resilience do
  @moduledoc """
  Runs each test of a module on both engines of bulkheads, circuit breakers and rate limiters.

      use Foundation.Conformance.Resilience

      conform "…", %{engine: engine} do
        name = start!(Foundation.Bulkhead, engine, max: 1)
  """

  alias Foundation.Native

  defmacro __using__(options) do
    async = Keyword.get(options, :async, true)

    quote do
      use Foundation.Case, async: unquote(async)
      import Foundation.Conformance.Resilience
      alias Foundation.{Bulkhead, CircuitBreaker, RateLimiter, Rejected}
    end
  end

  @doc "A test for each engine that there is here."
  defmacro conform(title, context, do: block) do
    engines = if Native.library_version() || Foundation.engine() == :native, do: [:native, :ets]

    for engine <- engines || [:ets] do
      quote do
        @tag engine: unquote(engine)
        test(unquote(title) <> unquote(" (#{engine})"), unquote(context), do: unquote(block))
      end
    end
  end

  @doc "Starts an instance under the test's supervisor, and returns its name."
  def start!(module, engine, options) do
    name = options[:name] || Foundation.Case.unique_name("instance")
    options = Keyword.merge([name: name, engine: engine], options)
    ExUnit.Callbacks.start_supervised!({module, options})
    name
  end

  @doc "Kills the owner of an instance, and returns when another is there."
  def kill_owner(name) do
    owner = Process.whereis(name)
    Foundation.Case.kill(owner)
    Foundation.Eventually.eventually(fn -> Process.whereis(name) not in [nil, owner] end)
  end
end
