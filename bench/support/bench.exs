defmodule Bench do
  @moduledoc false
  # Measures a row. Ours and theirs take turns in every round, in one process on one scheduler. The
  # row's figure is the ratio of the two medians.

  defmodule Row do
    @moduledoc false
    # `run` takes a size and a `Bench.Context` and returns the row's results: one, or one for each
    # variant. `target` is `{:at_least, number}`, `{:at_most, number}`, or a map from size, variant
    # or `{size, variant}` to one of those.
    #
    # `what` says in a few words what is measured, and `theirs` what it is compared with, by variant
    # where that differs.
    #
    # `growth` lists the sizes that show how the row grows. Without it, the row has one fixed size.
    # `processes` is the size at which the row is measured in 1, 2, 4 and 8 processes. `fills?` says
    # that each round makes all entries anew.
    #
    # `mean` is the target for the geometric mean of all ratios of the row. Without it, no mean is
    # printed. `ets_target` and `ets_mean` replace the two under the ETS engine.
    @enforce_keys [:name, :what, :theirs, :sizes, :target, :run]
    defstruct @enforce_keys ++
                [:quick, :processes, :mean, :ets_target, :ets_mean, growth: [], fills?: false]
  end

  defmodule Context do
    @moduledoc false
    # `rounds` and `per_round` say how long to measure. With `quick?` a run only shows that all rows
    # work, and with `growth?` it shows how the rows grow. `processes` is the number of processes;
    # with nil the row runs in one, which is pinned. `only` selects the variants whose names contain
    # it.
    defstruct quick?: false,
              growth?: false,
              rounds: 21,
              per_round: 20_000,
              processes: nil,
              only: nil
  end

  defmodule Result do
    @moduledoc false
    # `ratio` is what the target is compared with: theirs divided by ours for `{:at_least, _}`, and
    # ours divided by theirs for `{:at_most, _}`. `more` has further results of the row, for the
    # file.
    @enforce_keys [:ours, :theirs]
    defstruct [:variant, :ours, :theirs, :ratio, :spread, unit: :ns, more: []]
  end

  @doc """
  Runs `ours` and `theirs` in turn and returns a `Result`.

  Each function takes the number of the round and returns the cost of one operation in ns. The first
  round is not counted. The two sides take turns in starting a round.
  """
  def pair(%Context{rounds: rounds}, ours, theirs, options \\ []) do
    both = fn round ->
      if rem(round, 2) == 0 do
        ours = ours.(round)
        {ours, theirs.(round)}
      else
        theirs = theirs.(round)
        {ours.(round), theirs}
      end
    end

    both.(0)
    {ours, theirs} = 1..rounds |> Enum.map(both) |> Enum.unzip()
    result(ours, theirs, options)
  end

  @doc """
  Runs `ours` and `theirs`, functions without arguments, in turn and returns a `Result`. Each is
  called as often in a round as theirs fits into 4 ms.
  """
  def repeated(%Context{} = context, ours, theirs, options \\ []) do
    times = times(theirs, if(context.quick?, do: 100_000, else: 4_000_000))
    cost = fn fun -> fn _round -> each(1..times, fun) end end
    pair(context, cost.(ours), cost.(theirs), options)
  end

  # How often `fun` can be called in `ns`; at least twice.
  defp times(fun, ns, tried \\ 2) do
    taken = max(1, time(fn -> repeat(tried, fun) end))
    if taken * 10 > ns, do: max(2, div(tried * ns, taken)), else: times(fun, ns, tried * 4)
  end

  @doc "Makes a `Result` of the figures of the rounds, ours and theirs in the same order."
  def result(ours, theirs, options \\ []) do
    %Result{
      variant: options[:variant],
      unit: Keyword.get(options, :unit, :ns),
      ours: median(ours),
      theirs: median(theirs),
      ratio: ratio(median(ours), median(theirs), options),
      spread: spread(Enum.zip_with(ours, theirs, &ratio(&1, &2, options)))
    }
  end

  # If the empty loop took longer than the loop with the call, the round says nothing about the
  # call.
  defp ratio(ours, theirs, options) do
    {ours, theirs} = {max(ours, 0.1), max(theirs, 0.1)}
    if options[:lower], do: ours / theirs, else: theirs / ours
  end

  # The tenth and the ninetieth of a hundred.
  defp spread(ratios) do
    sorted = Enum.sort(ratios)
    at = fn share -> Enum.at(sorted, round((length(sorted) - 1) * share)) end
    [at.(0.1), at.(0.9)]
  end

  @doc "The geometric mean of the ratios of `results`, as a `Result` without other figures."
  def mean([_ | _] = results) do
    logarithms = for result <- results, do: :math.log(result.ratio)

    %Result{
      variant: "geometric mean",
      ours: nil,
      theirs: nil,
      ratio: :math.exp(Enum.sum(logarithms) / length(logarithms)),
      spread: nil
    }
  end

  def median(samples), do: samples |> Enum.sort() |> Enum.at(div(length(samples), 2))

  @doc """
  Returns what `fun` costs for one of `keys`, in ns, without the cost of walking over the keys. If
  the keys are a range from 1, `fun` has no argument.
  """
  def each(1..times//_, fun) do
    loop = time(fn -> repeat(times, &nothing/0) end)
    (time(fn -> repeat(times, fun) end) - loop) / times
  end

  def each(keys, fun) do
    length = length(keys)
    loop = time(fn -> walk(keys, &same/1) end)
    (time(fn -> walk(keys, fun) end) - loop) / length
  end

  @doc """
  Does the same in as many processes as the context asks for, which share the keys. Returns elapsed
  time divided by the number of all calls. `check` runs while all processes are alive.
  """
  def cost(context, keys, fun, check \\ fn -> :ok end)

  def cost(%Context{processes: nil}, keys, fun, check) do
    taken = each(keys, fun)
    check.()
    taken
  end

  def cost(%Context{processes: processes}, keys, fun, check) do
    length = length(keys)
    shares = Enum.chunk_every(keys, max(1, ceil(length / processes)))
    loop = together(shares, &same/1)
    (together(shares, fun, check) - loop) / length
  end

  @doc """
  Starts a process for each list, which calls `fun` with each element of its list. Returns the time
  until all are done, in ns.

  The processes are spread over the schedulers and have their lists before the time begins. `check`
  runs after it ends, while all of them are alive.
  """
  def together(lists, fun, check \\ fn -> :ok end) do
    pids = for {list, n} <- Enum.with_index(lists), do: worker(list, n, fun)
    for pid <- pids, do: await({:ready, pid})

    taken =
      time(fn ->
        for pid <- pids, do: send(pid, :begin)
        for pid <- pids, do: await({:done, pid})
      end)

    check.()
    for pid <- pids, do: send(pid, :stop)
    taken
  end

  defp worker(list, n, fun) do
    caller = self()

    work = fn ->
      send(caller, {:ready, self()})
      await(:begin)
      walk(list, fun)
      send(caller, {:done, self()})
      await(:stop)
    end

    scheduler = rem(n, System.schedulers_online()) + 1
    :erlang.spawn_opt(work, [:link, scheduler: scheduler, min_heap_size: 500_000])
  end

  defp await(message) do
    receive do
      ^message -> :ok
    end
  end

  @doc "Returns how long `fun` takes, in ns. Collects garbage before it starts."
  def time(fun) do
    :erlang.garbage_collect()
    started = :erlang.monotonic_time()
    fun.()
    System.convert_time_unit(:erlang.monotonic_time() - started, :native, :nanosecond)
  end

  defp walk([], _fun), do: :ok

  defp walk([key | rest], fun) do
    fun.(key)
    walk(rest, fun)
  end

  defp same(key), do: key

  defp repeat(0, _fun), do: :ok

  defp repeat(times, fun) do
    fun.()
    repeat(times - 1, fun)
  end

  defp nothing, do: :ok

  @doc """
  Runs `fun` in a process of its own on the first scheduler and returns its result.

  Without it, the same code differs by up to 1.45 between two runs. The option is not documented.
  Where it is missing, this is an ordinary process.
  """
  def pinned(fun, scheduler \\ 1) do
    caller = self()
    reply = make_ref()

    {pid, monitor} =
      :erlang.spawn_opt(
        fn -> send(caller, {reply, fun.()}) end,
        # The heap fits into a cache, as in a process that has worked for a while. Garbage is
        # collected now and then, and no call writes to memory that the system has yet to map.
        [:monitor, {:scheduler, scheduler}, {:min_heap_size, 50_000}]
      )

    receive do
      {^reply, result} ->
        Process.demonitor(monitor, [:flush])
        result

      {:DOWN, ^monitor, :process, ^pid, reason} ->
        raise "a benchmark failed: " <> Exception.format_exit(reason)
    end
  end

  @doc "Raises unless both are the same: the timed call must be right."
  def check!(what, ours, expected) do
    unless ours === expected do
      raise "#{what}: expected #{inspect(expected)}, got: #{inspect(ours)}"
    end

    :ok
  end

  @doc "Returns when `condition` holds. It polls without a pause, because the wait is being timed."
  def spin_until(condition) do
    unless condition.() do
      :erlang.yield()
      spin_until(condition)
    end
  end

  @doc """
  Calls `fun` with a function that returns the keys of a round: `per_round` of `keys` in random
  order. As long as there are enough keys, each round has others.

  They are constants, so no process has to collect or copy them as garbage. The order is the same in
  every run.
  """
  def with_rounds(keys, %Context{rounds: rounds, per_round: per_round}, fun) do
    chunks =
      keys
      |> in_random_order()
      |> Stream.chunk_every(per_round)
      |> Enum.take(rounds + 1)
      |> List.to_tuple()

    name = {__MODULE__, make_ref()}
    :persistent_term.put(name, chunks)

    try do
      fun.(fn round -> elem(:persistent_term.get(name), round) end)
    after
      :persistent_term.erase(name)
    end
  end

  # An endless stream. Of many millions of keys it draws only those that are taken.
  defp in_random_order(keys) do
    if length(keys) <= 2_000_000 do
      Stream.cycle(shuffle(keys))
    else
      keys = List.to_tuple(keys)

      Stream.unfold(:rand.seed_s(:exsss, 20), fn state ->
        {number, state} = :rand.uniform_s(tuple_size(keys), state)
        {elem(keys, number - 1), state}
      end)
    end
  end

  def shuffle(terms) do
    {tagged, _state} =
      Enum.map_reduce(terms, :rand.seed_s(:exsss, 20), fn term, state ->
        {number, state} = :rand.uniform_s(state)
        {{number, term}, state}
      end)

    tagged |> Enum.sort() |> Enum.map(&elem(&1, 1))
  end

  @doc "Returns `n` keys of a kind."
  def keys(:integer, n), do: Enum.to_list(1..n)
  def keys(:binary, n), do: Enum.map(1..n, &"user:#{&1}")
  def keys(:tuple, n), do: Enum.map(1..n, &{:agent, "id-#{&1}"})
end
