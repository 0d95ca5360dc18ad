defmodule Soak.Resilience do
  @moduledoc false
  # A bulkhead, a circuit breaker and a rate limiter. Their callers and owners are killed.
  #
  # A row in the table stands for a permit. Its process writes it after the grant and deletes it
  # before the release. If a row is in two successive readings, and its process is alive after them,
  # its permit was out between the readings.

  @behaviour Soak.Area

  alias Foundation.{Bulkhead, CircuitBreaker, RateLimiter, Rejected}
  alias Soak.{Crew, Faults, Record, Tree}

  import Foundation.Eventually

  @table __MODULE__
  @tree Soak.Resilience.Tree
  @callers 64
  @max 5
  @probes 2
  # At most this many in any window.
  @limit 40
  @per_ms 500

  @impl true
  def name, do: "resilience"

  @impl true
  def invariants do
    [
      permits: "permits out above the limit, or not returned",
      probes: "too many probes, or breakers that stick",
      rate: "windows with more than the limit"
    ]
  end

  @impl true
  def open(_options) do
    @table = :ets.new(@table, [:named_table, :public, :ordered_set, write_concurrency: true])
    {:ok, _pid} = Tree.start_link(@tree, children())
    :ok
  end

  defp children do
    times = [open_ms: 5, max_open_ms: 50, probe_timeout_ms: 200]
    breaker = [min_calls: 5, window: {:count, 10}, probes: @probes] ++ times

    for {module, kind, options} <- [
          {Bulkhead, :bulkhead, [max: @max, queue: 40]},
          {CircuitBreaker, :breaker, breaker},
          {RateLimiter, :limiter, [limit: {@limit, @per_ms}]}
        ] do
      {module, [name: instance_name(kind)] ++ options}
    end
  end

  defp instance_name(kind), do: :"soak_#{kind}"

  # The bare name and two keys.
  defp targets(kind) do
    name = instance_name(kind)
    [name, {name, 1}, {name, 2}]
  end

  @impl true
  def crew do
    [
      %{count: @callers, init: & &1, step: &acquire/1, mortal?: true},
      %{count: 6, init: & &1, step: &call/1, mortal?: true},
      %{count: 4, init: & &1, step: &take/1, mortal?: true},
      %{count: 1, init: & &1, step: &compare/1}
    ]
  end

  @impl true
  def faults(_engine) do
    owners =
      for {kind, weight} <- [bulkhead: 8, breaker: 4, limiter: 2],
          do: {"owner of a #{kind} killed", weight, fn -> Faults.kill(instance_name(kind)) end}

    [{"caller of a bulkhead, breaker or limiter killed", 8, &kill/0} | owners]
  end

  defp kill do
    with pid when is_pid(pid) <- Crew.victim(__MODULE__), do: Process.exit(pid, :kill)
  end

  # Holds, waits in vain, dies with a permit, or releases one twice.
  defp acquire(index) do
    target = Enum.random(targets(:bulkhead))
    weight = :rand.uniform(3)

    case Bulkhead.acquire(target, weight: weight, wait: :rand.uniform(5) - 1) do
      {:ok, permit} ->
        row = {:permit, target, make_ref()}
        :ets.insert(@table, {row, self(), weight})
        in_use = Bulkhead.info(target).in_use
        Record.check!(:permits, in_use in weight..@max, fn -> {target, in_use} end)
        Process.sleep(:rand.uniform(3) - 1)
        if :rand.uniform(200) == 1, do: Process.exit(self(), :kill)
        :ets.delete(@table, row)
        for _ <- 1..:rand.uniform(2), do: :ok = Bulkhead.release(permit)

      {:error, %Rejected{reason: reason}} ->
        Record.check!(:permits, reason in [:full, :timeout], fn -> {target, reason} end)
    end

    Process.sleep(:rand.uniform(60))
    {1, index}
  end

  defp compare(index) do
    for target <- targets(:bulkhead) do
      held = fn -> :ets.match_object(@table, {{:permit, target, :_}, :_, :_}) end
      first = held.()
      second = MapSet.new(held.())
      both = for row <- first, row in second, Process.alive?(elem(row, 1)), do: row
      weight = both |> Enum.map(&elem(&1, 2)) |> Enum.sum()
      Record.check!(:permits, weight <= @max, fn -> {target, both} end)
    end

    # The rows of the dead.
    for {row, pid, _weight} <- :ets.match_object(@table, {{:permit, :_, :_}, :_, :_}),
        not Process.alive?(pid),
        do: :ets.delete(@table, row)

    for target <- targets(:breaker) do
      %{probes: probes} = CircuitBreaker.info(target)
      Record.check!(:probes, probes <= @probes, fn -> {target, probes} end)
    end

    Process.sleep(5)
    {1, index}
  end

  # The service fails often. Some calls are forgotten, and some die.
  defp call(index) do
    target = Enum.random(targets(:breaker))

    case {CircuitBreaker.ask(target), :rand.uniform(20)} do
      {{:error, %Rejected{reason: reason}}, _choice} ->
        Record.check!(:probes, reason in [:open, :probing], fn -> {target, reason} end)

      {{:ok, _forgotten}, 1} ->
        :ok

      {{:ok, _lost}, 2} ->
        Process.exit(self(), :kill)

      {{:ok, permit}, choice} ->
        :ok = CircuitBreaker.record(permit, if(choice < 12, do: :error, else: :ok))
    end

    Process.sleep(:rand.uniform(5))
    {1, index}
  end

  defp take(index) do
    name = instance_name(:limiter)
    begun = System.monotonic_time()

    case RateLimiter.take(name) do
      :ok ->
        taken = {:taken, name, begun, make_ref()}
        :ets.insert(@table, {taken, System.monotonic_time()})

      {:error, %Rejected{reason: reason}} ->
        Record.check!(:rate, reason == :rate_limited, fn -> {name, reason} end)
    end

    Process.sleep(:rand.uniform(8))
    {1, index}
  end

  # All members wait, so no permit is out that was not lost with a process.
  @impl true
  def audit do
    for kind <- [:bulkhead, :breaker, :limiter], do: Faults.await(instance_name(kind))

    for target <- targets(:bulkhead) do
      idle? = fn -> match?(%{in_use: 0, waiting: 0}, Bulkhead.info(target)) end
      Record.check!(:permits, holds?(idle?), fn -> {target, Bulkhead.info(target)} end)
    end

    for target <- targets(:breaker) do
      closed? = fn ->
        CircuitBreaker.run(target, fn -> :ok end)
        CircuitBreaker.state(target) == :closed
      end

      Record.check!(:probes, holds?(closed?), fn -> {target, CircuitBreaker.info(target)} end)
    end

    check_windows(instance_name(:limiter))
  end

  defp holds?(condition) do
    eventually(condition, 10_000)
    true
  rescue
    _not_in_time -> false
  end

  # A call took effect between its begin and its end. Those that lie wholly in a window are counted.
  defp check_windows(name) do
    taken = :ets.select(@table, [{{{:taken, name, :"$1", :_}, :"$2"}, [], [{{:"$1", :"$2"}}]}])
    per = System.convert_time_unit(@per_ms, :millisecond, :native)
    windows(taken, name, per)
    :ets.match_delete(@table, {{:taken, name, :_, :_}, :_})
  end

  defp windows([], _name, _per), do: :ok

  defp windows([{from, _until} | later] = taken, name, per) do
    in_reach = Enum.take_while(taken, fn {begun, _ended} -> begun < from + per end)
    inside = Enum.count(in_reach, fn {_begun, ended} -> ended < from + per end)
    Record.check!(:rate, inside <= @limit, fn -> {name, inside} end)
    windows(later, name, per)
  end
end
