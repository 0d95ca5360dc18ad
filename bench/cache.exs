defmodule Bench.Cache do
  @moduledoc false
  # Foundation.Cache against what applications write around ETS, and against a server that loads for
  # its callers.

  alias Bench.{Result, Row}
  alias Foundation.Cache

  @ours Bench.Ours
  @theirs Bench.Theirs
  @ages Bench.Ages
  @hour 3_600_000
  @gigabyte 1_000_000_000

  defmodule Loader do
    @moduledoc false
    # Loads in the server, which therefore loads each key once.
    use GenServer

    def start_link, do: GenServer.start_link(__MODULE__, nil)
    def fetch(server, key, loader), do: GenServer.call(server, {:fetch, key, loader}, :infinity)

    @impl true
    def init(nil), do: {:ok, %{}}

    @impl true
    def handle_call({:fetch, key, loader}, _from, values) do
      values = Map.put_new_lazy(values, key, loader)
      {:reply, {:ok, values[key]}, values}
    end
  end

  defmodule LRU do
    @moduledoc false
    # Keys in the order of their last use, or of their insertion.

    def new(kind, room) do
      keys = :ets.new(kind, [:set, :public])
      %{kind: kind, room: room, keys: keys, ages: :ets.new(kind, [:ordered_set, :public])}
    end

    def delete(%{keys: keys, ages: ages}) do
      :ets.delete(keys)
      :ets.delete(ages)
    end

    # Whether it is a hit. If not, the key is inserted.
    def request(%{keys: keys, ages: ages} = cache, key, time) do
      case :ets.lookup(keys, key) do
        [{_key, _age}] when cache.kind == :fifo ->
          true

        [{_key, age}] ->
          :ets.delete(ages, age)
          use_now(cache, key, time)
          true

        [] ->
          if :ets.info(keys, :size) == cache.room, do: evict(cache)
          use_now(cache, key, time)
          false
      end
    end

    defp use_now(%{keys: keys, ages: ages}, key, time) do
      :ets.insert(keys, {key, time})
      :ets.insert(ages, {time, key})
    end

    defp evict(%{keys: keys, ages: ages}) do
      oldest = :ets.first(ages)
      [{_age, key}] = :ets.take(ages, oldest)
      :ets.delete(keys, key)
    end
  end

  def rows do
    [
      %Row{
        name: :cache_hit,
        what: "fetch/3 of a fresh value",
        theirs: "ETS look-up and an expiry check",
        growth: [1_000, 10_000, 100_000, 1_000_000],
        processes: 100_000,
        sizes: [1_000, 100_000],
        quick: [100],
        target: {:at_least, 2.5},
        run: &hit/2
      },
      %Row{
        name: :cache_herd,
        what: "callers miss one key at once, until all have it",
        theirs: "a GenServer that loads for all",
        sizes: [1_000],
        quick: [50],
        target: {:at_least, 1},
        run: &herd/2
      },
      %Row{
        name: :cache_churn,
        what: "put of a new key at the bound",
        theirs: "ETS with an `ordered_set` of ages",
        growth: [1_000, 10_000, 100_000, 1_000_000],
        fills?: true,
        sizes: [100_000],
        quick: [100],
        target: {:at_least, 2},
        run: &churn/2
      },
      %Row{
        name: :cache_ratio,
        what: "share of misses on a Zipf trace; compared by difference",
        theirs: %{"LRU" => "LRU of this size", "FIFO" => "FIFO of this size"},
        growth: [1_000, 3_000, 10_000, 30_000, 100_000],
        fills?: true,
        sizes: [10_000],
        quick: [100],
        target: %{"LRU" => {:at_least, 0.065}},
        run: &ratio/2
      }
    ]
  end

  defp hit(size, context) do
    keys = Bench.keys(:binary, size)

    with_caches([ttl: @hour], fn ->
      until = System.monotonic_time(:millisecond) + @hour

      for key <- keys do
        Cache.put(@ours, key, {:value, key})
        :ets.insert(@theirs, {key, {:value, key}, until})
      end

      Bench.check!("fetch", ours_hit("user:1"), {:ok, {:value, "user:1"}})
      Bench.check!("fetch", theirs_hit("user:1"), {:ok, {:value, "user:1"}})

      Bench.with_rounds(keys, context, fn keys_of ->
        run = fn fun -> fn round -> Bench.cost(context, keys_of.(round), fun) end end

        in_processes(context, fn ->
          Bench.pair(context, run.(&ours_hit/1), run.(&theirs_hit/1))
        end)
      end)
    end)
  end

  defp in_processes(%{processes: nil}, fun), do: Bench.pinned(fun)
  defp in_processes(_context, fun), do: fun.()

  defp ours_hit(key), do: Cache.fetch(@ours, key, &load/1)

  defp load(key), do: raise("expected #{inspect(key)} to be there")

  defp theirs_hit(key) do
    case :ets.lookup(@theirs, key) do
      [{_key, value, until}] ->
        if System.monotonic_time(:millisecond) < until, do: {:ok, value}, else: load(key)

      [] ->
        load(key)
    end
  end

  defp herd(callers, context) do
    {:ok, server} = Loader.start_link()
    loads = :counters.new(1, [])

    loader = fn ->
      :counters.add(loads, 1, 1)
      Process.sleep(10)
      :value
    end

    with_caches([], fn ->
      context = %{context | rounds: min(context.rounds, 11)}

      run = fn fetch ->
        fn round ->
          :counters.put(loads, 1, 0)
          taken = together(callers, fn -> {:ok, :value} = fetch.({:key, round}) end)
          Bench.check!("loads", :counters.get(loads, 1), 1)
          taken
        end
      end

      result =
        Bench.pair(
          context,
          run.(fn key -> Cache.fetch(@ours, key, fn -> {:ok, loader.()} end) end),
          run.(fn key -> Loader.fetch(server, key, loader) end)
        )

      GenServer.stop(server)
      result
    end)
  end

  # The time until each of so many processes has called `fun`.
  defp together(count, fun) do
    caller = self()

    work = fn ->
      send(caller, {:ready, self()})
      receive do: (:begin -> :ok)
      fun.()
      send(caller, :done)
    end

    pids = for _process <- 1..count, do: spawn_link(work)
    for pid <- pids, do: receive(do: ({:ready, ^pid} -> :ok))

    Bench.time(fn ->
      for pid <- pids, do: send(pid, :begin)
      for _pid <- pids, do: receive(do: (:done -> :ok))
    end)
  end

  defp churn(size, context) do
    with_caches([max_entries: size], fn ->
      :ets.new(@ages, [:named_table, :public, :ordered_set])
      for n <- 1..size, do: Cache.put(@ours, "first:#{n}", n)
      for n <- 1..size, do: theirs_insert("first:#{n}", n)
      calls = if context.quick?, do: 200, else: 20_000
      keys_of = fn round -> for n <- 1..calls, do: "user:#{round * calls + n}" end

      result =
        Bench.pinned(fn ->
          Bench.pair(
            context,
            fn round -> Bench.each(keys_of.(round), &Cache.put(@ours, &1, :value)) end,
            fn round -> Bench.each(keys_of.(round), &theirs_put(&1, :value)) end
          )
        end)

      Bench.check!("entries", {Cache.size(@ours), :ets.info(@theirs, :size)}, {size, size})
      :ets.delete(@ages)
      result
    end)
  end

  defp theirs_put(key, value) do
    oldest = :ets.first(@ages)
    [{_age, evicted}] = :ets.take(@ages, oldest)
    :ets.delete(@theirs, evicted)
    theirs_insert(key, value)
  end

  defp theirs_insert(key, value) do
    age = System.unique_integer([:monotonic])
    :ets.insert(@theirs, {key, value, age})
    :ets.insert(@ages, {age, key})
  end

  # One pass of all policies over the same trace. Its keys follow Zipf's law with exponent 1.0.
  defp ratio(room, context) do
    keys = if context.quick?, do: 100 * room, else: 1_000_000

    requests =
      cond do
        context.quick? -> 20_000
        context.growth? -> 2_000_000
        true -> 5_000_000
      end

    lru = LRU.new(:lru, room)
    fifo = LRU.new(:fifo, room)

    with_caches([max_entries: room], fn ->
      zipf = zipf(keys)

      {_random, missed} =
        Enum.reduce(1..requests, {:rand.seed_s(:exsss, 20), {0, 0, 0}}, fn time,
                                                                           {random, missed} ->
          {key, random} = draw(zipf, random)
          {ours, by_lru, by_fifo} = missed
          {:ok, loaded} = Cache.fetch(@ours, key, fn -> {:ok, time} end)
          ours = missed(ours, loaded != time)
          by_lru = missed(by_lru, LRU.request(lru, key, time))
          by_fifo = missed(by_fifo, LRU.request(fifo, key, time))
          {random, {ours, by_lru, by_fifo}}
        end)

      LRU.delete(lru)
      LRU.delete(fifo)
      {ours, by_lru, by_fifo} = missed
      Bench.check!("entries", Cache.size(@ours), room)

      for {variant, theirs} <- [{"LRU", by_lru}, {"FIFO", by_fifo}] do
        {ours, theirs} = {ours / requests, theirs / requests}
        %Result{variant: variant, unit: :share, ours: ours, theirs: theirs, ratio: theirs - ours}
      end
    end)
  end

  defp missed(count, true), do: count
  defp missed(count, false), do: count + 1

  # The sums of 1 / rank.
  defp zipf(keys) do
    {sums, _sum} =
      Enum.map_reduce(1..keys, 0.0, fn rank, sum -> {sum + 1 / rank, sum + 1 / rank} end)

    List.to_tuple(sums)
  end

  defp draw(sums, random) do
    {point, random} = :rand.uniform_s(random)
    {rank(sums, point * elem(sums, tuple_size(sums) - 1), 0, tuple_size(sums) - 1), random}
  end

  defp rank(_sums, _point, low, high) when low == high, do: low

  defp rank(sums, point, low, high) do
    middle = div(low + high, 2)

    if elem(sums, middle) < point,
      do: rank(sums, point, middle + 1, high),
      else: rank(sums, point, low, middle)
  end

  defp with_caches(options, fun) do
    {:ok, ours} = Cache.start_link([name: @ours, max_bytes: @gigabyte] ++ options)
    :ets.new(@theirs, [:named_table, :public, :set, read_concurrency: true])

    try do
      fun.()
    after
      :ets.delete(@theirs)
      GenServer.stop(ours)
    end
  end
end
