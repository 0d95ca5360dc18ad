defmodule Foundation.CacheSystem do
  @moduledoc """
  A running cache with slots, for the state-machine tests: the same functions as
  `Foundation.CacheModel` has.
  """

  import Foundation.Case
  import Foundation.Conformance.Cache, only: [caught: 1]
  import Foundation.Eventually

  alias Foundation.Cache
  alias Foundation.Cache.LoadError
  alias Foundation.Conformance.Resilience

  @max_bytes 100_000
  @patience_ms 30_000

  def options, do: [max_bytes: @max_bytes, negative_ttl: :infinity]

  @doc "The processes of slots are in a table: `{slot, pid}`."
  def start(cache), do: {cache, :ets.new(__MODULE__, [:public])}

  def stop({_cache, slots}) do
    for {_slot, pid} <- :ets.tab2list(slots), do: kill(pid)
    :ets.delete(slots)
  end

  def get({cache, _slots}, key), do: Cache.fetch(cache, key)

  def fetch({cache, _slots}, key, outcome) do
    answer(
      caught(fn ->
        Cache.fetch(cache, key, fn ->
          # So that others come in between.
          :erlang.yield()
          outcome(outcome)
        end)
      end)
    )
  end

  def put({cache, _slots}, key, value), do: Cache.put(cache, key, value(value))
  def delete({cache, _slots}, key), do: Cache.delete(cache, key)
  def clear({cache, _slots}), do: Cache.clear(cache)

  def stats({cache, _slots}) do
    Map.take(
      Cache.stats(cache),
      [:hits, :misses, :loads, :load_errors, :rejected, :entries]
    )
  end

  def kill_owner({cache, _slots}), do: Resilience.kill_owner(cache)

  def start({cache, slots}, slot, key) do
    test = self()
    misses = Cache.stats(cache).misses

    pid =
      spawn(fn ->
        send(test, {:fetched, self(), caught(fn -> Cache.fetch(cache, key, held(test)) end)})
      end)

    :ets.insert(slots, {slot, pid})

    # A miss is counted before the loader runs.
    eventually(fn -> Cache.stats(cache).misses > misses or ended?(pid) end, @patience_ms)
    if ended?(pid), do: fetched(pid), else: pid
  end

  @doc "Starts a slot that is expected to do this."
  def start(system, slot, key, expected) do
    case {start(system, slot, key), expected} do
      {pid, :loads} when is_pid(pid) -> loading(pid)
      {pid, {:waits, _loader}} when is_pid(pid) -> :waits
      {other, _expected} -> other
    end
  end

  defp ended?(pid), do: not Process.alive?(pid)

  defp held(test) do
    fn ->
      send(test, {:loading, self()})
      receive do: ({:release, outcome} -> outcome(outcome))
    end
  end

  defp loading(pid) do
    receive do
      {:loading, ^pid} -> :loads
      {:fetched, ^pid, answer} -> {:fetched, answer(answer)}
    after
      @patience_ms -> :nothing
    end
  end

  defp fetched(pid) do
    receive do
      {:fetched, ^pid, answer} -> {:fetched, answer(answer)}
    after
      @patience_ms -> :nothing
    end
  end

  @doc "The waiting slots are those that will be answered."
  def finish({_cache, slots}, slot, outcome, waiting) do
    send(pid(slots, slot), {:release, outcome})

    for slot <- [slot | waiting] do
      case fetched(pid(slots, slot)) do
        {:fetched, answer} -> {slot, answer}
        other -> {slot, other}
      end
    end
  end

  @doc "The one that waits is told what it is expected to do."
  def kill({_cache, slots}, slot, expected) do
    kill(pid(slots, slot))
    :ets.delete(slots, slot)

    case expected do
      nil -> nil
      {next, _loads_or_fetched} -> {next, loading(pid(slots, next))}
    end
  end

  defp pid(slots, slot), do: :ets.lookup_element(slots, slot, 2)

  defp value(:large), do: :binary.copy("x", @max_bytes)
  defp value(value), do: value

  defp outcome({:ok, :large}), do: {:ok, value(:large)}
  defp outcome({:raise, reason}), do: throw(reason)
  defp outcome(other), do: other

  # As the model has it: those who wait for a raise get a LoadError.
  defp answer({:ok, value}) when is_binary(value) and byte_size(value) == @max_bytes,
    do: {:ok, :large}

  defp answer({:throw, reason}), do: {:raise, reason}
  defp answer({:error, %LoadError{kind: :throw, reason: reason}}), do: {:raise, reason}
  defp answer(other), do: other
end
