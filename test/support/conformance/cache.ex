defmodule Foundation.Conformance.Cache do
  @moduledoc """
  Runs each test of a module on both engines of `Foundation.Cache`.

      use Foundation.Conformance.Cache

      conform "…", %{engine: engine} do
        cache = cache!(engine, ttl: 1_000)

  A *fetcher* is a process that fetches a key with a loader that asks the test what to return.
  """

  alias Foundation.Cache
  alias Foundation.Conformance.Resilience

  defmacro __using__(options) do
    async = Keyword.get(options, :async, true)

    quote do
      use Foundation.Case, async: unquote(async)
      import Foundation.Conformance.Cache
      import Foundation.Conformance.Resilience, only: [conform: 3, kill_owner: 1]
      alias Foundation.Cache
      alias Foundation.Cache.LoadError
    end
  end

  @doc "Starts a cache under the test's supervisor, and returns its name."
  def cache!(engine, options \\ []) do
    options = Keyword.merge([name: Foundation.Case.unique_name("cache")], options)
    options = Keyword.put_new(options, :max_bytes, 10_000_000)
    Resilience.start!(Cache, engine, options)
  end

  @doc """
  Starts a fetcher. It sends `{:loading, fetcher}` when its loader runs, and
  `{:fetched, fetcher, result}` at the end.
  """
  def fetcher(cache, key, options \\ []) do
    test = self()

    spawn(fn ->
      send(
        test,
        {:fetched, self(), caught(fn -> Cache.fetch(cache, key, held(test), options) end)}
      )
    end)
  end

  @doc "A loader that returns what `release/2` says."
  def held(test) do
    fn ->
      send(test, {:loading, self()})
      receive do: ({:release, fun} -> fun.())
    end
  end

  @doc "Lets a held loader do this."
  def release(fetcher, fun) when is_function(fun, 0), do: send(fetcher, {:release, fun})
  def release(fetcher, outcome), do: send(fetcher, {:release, fn -> outcome end})

  @doc "Returns when so many reads have missed: those that load, and those that wait."
  def await_misses(cache, count),
    do: Foundation.Eventually.eventually(fn -> Cache.stats(cache).misses == count end)

  @doc "Returns when the values of a cache are stale, or have expired."
  def await_stale(cache, key) do
    before = Cache.stats(cache).stale_hits

    Foundation.Eventually.eventually(fn ->
      Cache.get(cache, key)
      Cache.stats(cache).stale_hits > before
    end)
  end

  @doc "What a function returns, or `{kind, reason}` of what it raises."
  def caught(fun) do
    fun.()
  catch
    kind, reason -> {kind, reason}
  end
end
