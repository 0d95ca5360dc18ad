defmodule Foundation.CacheFaultTest do
  # Callers of a cache, loaders among them, and its owner are killed at random.
  use Foundation.Conformance.Cache

  alias Foundation.Cache.Backends.ETS.Loads

  @callers 40
  @kills 300
  @keys 6

  @tag timeout: 180_000
  conform "killed callers and owners keep nobody waiting, and leave nothing", %{engine: engine} do
    cache = cache!(engine, ttl: 3, load_timeout: 120_000, negative_ttl: 1)
    stop = :atomics.new(1, [])
    on_exit(fn -> :atomics.put(stop, 1, 1) end)
    callers = for _n <- 1..@callers, do: caller(cache, stop)

    callers =
      Enum.reduce(1..@kills, callers, fn n, [oldest | callers] ->
        if rem(n, 50) == 0, do: kill_owner(cache)
        if rem(n, 7) == 0, do: Cache.delete(cache, rem(n, @keys))
        kill(oldest)
        # A second one at a random place, whatever it does there.
        {[victim], callers} = callers |> Enum.shuffle() |> Enum.split(1)
        kill(victim)
        callers ++ [caller(cache, stop), caller(cache, stop)]
      end)

    :atomics.put(stop, 1, 1)

    for pid <- callers do
      ref = Process.monitor(pid)
      assert_receive {:DOWN, ^ref, :process, ^pid, reason}, 60_000
      assert reason in [:normal, :noproc]
    end

    for key <- 0..(@keys - 1) do
      Cache.delete(cache, key)
      assert Cache.fetch(cache, key, fn -> {:ok, :new} end, ttl: 60_000) == {:ok, :new}
    end

    if engine == :ets do
      eventually(fn -> Loads.all(cache) == [] and Loads.waiters(cache) == [] end)
    end
  end

  defp caller(cache, stop), do: spawn(fn -> call(cache, stop) end)

  defp call(cache, stop) do
    key = :rand.uniform(@keys) - 1

    case Cache.fetch(cache, key, fn -> load(key) end) do
      {:ok, ^key} -> :ok
      {:error, :down} -> :ok
    end

    if :atomics.get(stop, 1) == 0, do: call(cache, stop), else: :ok
  end

  defp load(key) do
    if :rand.uniform(3) == 1, do: Process.sleep(1)
    if :rand.uniform(5) == 1, do: {:error, :down}, else: {:ok, key}
  end
end
