# bench/scheduler.exs runs this in a VM of its own, with a library that times its calls. It prints
# its figures as one Erlang term: a list of {operation, longest call on a normal scheduler in ns,
# its function, longest CPU time of a call in ns, calls, longest run of a process that the VM
# reported in ms}.
#
#     elixir -pa ... scheduler_probe.exs LIBRARY SIZE

for file <- ~w(bench tables scheduler_services scheduler_cache),
    do: Code.require_file("#{file}.exs", __DIR__)

defmodule Bench.SchedulerProbe do
  @moduledoc false

  alias Bench.{SchedulerCache, SchedulerServices, Tables}
  alias Foundation.{AgentRegistry, Bulkhead, CircuitBreaker, Native, RateLimiter, Registry}
  alias Foundation.Telemetry.Events.Backend
  alias Foundation.Telemetry.{Sampler, SampledEvents, Span}

  @table Tables.ours()
  @event [:bench, :event]
  @batch [:bench, :batch]
  @hour 3_600_000
  @bulkhead Bench.HostileBulkhead
  @breaker Bench.HostileBreaker
  @limiter Bench.HostileLimiter

  def main([library, size]) do
    size = String.to_integer(size)
    before = Process.list()
    start(library, size)
    watch(before)

    areas = [
      &unique/1,
      &values/1,
      &duplicate/1,
      &many_keys/1,
      &agents/1,
      &events/1,
      &spans/1,
      &hostile/1,
      &SchedulerServices.resilience(&1, fn name, run -> measure(name, run) end),
      &SchedulerServices.event_log(&1, fn name, run -> measure(name, run) end),
      &SchedulerCache.cache(&1, fn name, run -> measure(name, run) end)
    ]

    results = Enum.flat_map(areas, & &1.(size))
    IO.write(:io_lib.format("~p.~n", [results]))
  end

  # The library must be loaded before the application looks for its own.
  defp start(library, size) do
    :ok = Application.load(:foundation)
    version = List.to_string(Application.spec(:foundation, :vsn))
    :ok = Native.load(library, version)
    [] = Native.library_calls() || raise "#{library} does not time its calls"

    Application.put_env(:foundation, :engine, :native)
    settings = [max_windows: size, max_pending: 2 * size, window: @hour, batch_timeout: @hour]
    Application.put_env(:foundation, SampledEvents, settings)
    {:ok, _started} = Application.ensure_all_started(:foundation)
  end

  # The VM reports a process that ran for a millisecond without a break. For native code it does not
  # name the function (`:undefined`), so the reports are told apart by process. Processes that are
  # older than the application do not count.
  defp watch(unrelated) do
    seen = :ets.new(__MODULE__, [:public, :named_table])
    watcher = spawn_link(fn -> receive_reports(seen, Map.new(unrelated, &{&1, true})) end)
    :erlang.system_monitor(watcher, [{:long_schedule, 1}])
  end

  defp receive_reports(seen, unrelated) do
    receive do
      {:monitor, pid, :long_schedule, info} when not is_map_key(unrelated, pid) ->
        :ets.insert(seen, {{pid, make_ref()}, info[:timeout]})

      {:monitor, _pid, :long_schedule, _info} ->
        :ok
    end

    receive_reports(seen, unrelated)
  end

  # `run` takes a function that makes each call and then yields, so that what the VM reports of a
  # process is one call.
  defp measure(name, run) do
    Native.library_calls()
    :ets.delete_all_objects(__MODULE__)
    run.(&call/1)

    calls = for call <- Native.library_calls(), elem(call, 0) != "library_calls", do: call

    # A report arrives after its process has left the scheduler.
    Process.sleep(20)
    reports = for {_pid, ms} <- :ets.tab2list(__MODULE__), do: ms

    if calls == [], do: raise("#{name}: no native call")
    {function, _calls, longest, _ran} = Enum.max_by(calls, &elem(&1, 2))
    ran = calls |> Enum.map(&elem(&1, 3)) |> Enum.max()
    total = calls |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    {name, longest, function, ran, total, Enum.max(reports, fn -> 0 end)}
  end

  defp call(fun) do
    result = fun.()
    :erlang.yield()
    result
  end

  # One process has n keys with one entry each.
  defp unique(size) do
    Tables.with_tables([:ours], :unique, fn ->
      {owner, held} =
        holding(fn ->
          all = measure("register", fn call -> each(1..size, call, &register(&1, nil)) end)
          some = Bench.shuffle(Enum.take_every(1..size, max(1, div(size, 100_000))))
          thousands = 1..size |> Enum.chunk_every(1_000) |> Enum.take(100)

          [
            all,
            measure("lookup", fn call -> each(some, call, &Registry.lookup(@table, &1)) end),
            measure("whereis", fn call ->
              each(some, call, &Registry.whereis_name({@table, &1}))
            end),
            measure("lookup_many", fn call ->
              each(thousands, call, &Registry.lookup_many(@table, &1))
            end),
            measure("lookup_all", fn call ->
              keys = Enum.to_list(1..size)
              call.(fn -> Registry.lookup_many(@table, keys) end)
            end),
            measure("keys", fn call -> call.(fn -> Registry.keys(@table, self()) end) end),
            measure("stream", fn call -> call.(fn -> Stream.run(Registry.stream(@table)) end) end),
            measure("info", fn call -> each(1..100, call, fn _n -> Registry.info(@table) end) end),
            measure("count", fn call ->
              each(1..100, call, fn _n -> Registry.count(@table) end)
            end),
            measure("update_value", fn call ->
              each(some, call, &Registry.update_value(@table, &1, fn _nil -> 1 end))
            end),
            measure("unregister", fn call ->
              each(some, call, &Registry.unregister(@table, &1))
            end),
            measure("register_again", fn call -> each(some, call, &register(&1, nil)) end)
          ]
        end)

      fresh = max(div(size, 50), 100)

      others = [
        measure("reads_8p", fn call -> together(8, fn _n -> read(size, call) end) end),
        measure("reads_while_writing", fn call ->
          together(6, fn n -> if n <= 4, do: read(size, call), else: write(n, size, call) end)
        end),
        measure("mass_exit", fn _call ->
          fresh = for n <- 1..fresh, do: fn -> register({:fresh, n}, nil) end
          exits(Tables.owners(fresh), size)
        end),
        measure("owner_of_many_exit", fn _call -> exits([owner], 0) end)
      ]

      held ++ others
    end)
  end

  # Values that each read must rebuild, in a table of n entries.
  defp values(size) do
    map = %{name: "agent", started: 1_700_000_000, state: :idle}
    binary = :binary.copy("x", 10_000)
    term = Enum.to_list(1..625)

    Tables.with_tables([:ours], :unique, fn ->
      {owner, held} =
        holding(fn ->
          Enum.each(1..size, &register(&1, nil))

          for {name, value} <- [value_map: map, value_10kb_binary: binary, value_10kb_term: term] do
            measure("#{name}", fn call ->
              each(1..1_000, call, &register({name, &1}, value))
              each(1..10_000, call, &Registry.lookup(@table, {name, rem(&1, 1_000) + 1}))
            end)
          end
        end)

      Tables.stop([owner])
      held
    end)
  end

  # One process has n entries under one key.
  defp duplicate(size) do
    Tables.with_tables([:ours], :duplicate, fn ->
      {owner, held} =
        holding(fn ->
          all = measure("register_dup", fn call -> each(1..size, call, &register(:key, &1)) end)

          [
            all,
            measure("lookup_dup", fn call -> call.(fn -> Registry.lookup(@table, :key) end) end),
            measure("dispatch", fn call ->
              call.(fn -> Registry.dispatch(@table, :key, fn _entries -> :ok end) end)
            end),
            measure("values_dup", fn call ->
              call.(fn -> Registry.values(@table, :key, self()) end)
            end),
            measure("unregister_dup", fn call ->
              call.(fn -> Registry.unregister(@table, :key) end)
            end),
            measure("register_dup_again", fn call ->
              each(1..size, call, &register(:key, &1))
            end)
          ]
        end)

      sink = spawn(&sink/0)
      Enum.each(1..size, &Registry.register_for(@table, sink, :sink, &1))

      others = [
        measure("broadcast", fn call ->
          Bench.pinned(fn -> call.(fn -> Registry.broadcast(@table, :sink, :message) end) end)
        end),
        measure("exit_dup", fn _call -> exits([owner], size) end)
      ]

      Tables.stop([sink])
      held ++ others
    end)
  end

  defp sink do
    receive do
      :message -> sink()
    end
  end

  # One process has n duplicate keys with one entry each.
  defp many_keys(size) do
    Tables.with_tables([:ours], :duplicate, fn ->
      {owner, held} =
        holding(fn ->
          Enum.each(1..size, &register(&1, nil))
          some = Bench.shuffle(Enum.take_every(1..size, max(1, div(size, 100_000))))

          [
            measure("unregister_many_keys", fn call ->
              each(some, call, &Registry.unregister(@table, &1))
            end)
          ]
        end)

      Tables.stop([owner])
      held
    end)
  end

  defp agents(size) do
    count = max(div(size, 10), 100)
    pids = for _n <- 1..count, do: spawn(fn -> Process.sleep(:infinity) end)

    [
      measure("register_agent", fn call ->
        Bench.pinned(fn ->
          each(pids, call, fn pid -> :ok = AgentRegistry.register_agent({:agent, pid}, pid) end)
        end)
      end),
      measure("agents_exit", fn _call ->
        Tables.stop(pids)
        Bench.spin_until(fn -> AgentRegistry.count() == 0 end)
      end)
    ]
  end

  # More windows than the bound of n. The last ones close the oldest.
  defp events(size) do
    Bench.pinned(fn ->
      more = size + div(size, 10)
      emit = &SampledEvents.emit_event(@event, %{count: 1}, %{}, dedup_key: &1)
      # Batches have their largest size, so nothing is emitted before the flush.
      SampledEvents.configure_event(@batch, batch_size: 2 * size)

      [
        measure("emit_event_new", fn call -> each(1..more, call, emit) end),
        measure("emit_event_repeat", fn call -> each((more - div(size, 2))..more, call, emit) end),
        measure("emit_event_8p", fn call ->
          together(8, fn n -> each(n..more//97, call, emit) end)
        end),
        measure("event_stats", fn call ->
          call.(fn -> SampledEvents.stats() end)
          call.(fn -> SampledEvents.stats(@event) end)
        end),
        measure("emit_batched", fn call ->
          each(1..size, call, &SampledEvents.emit_batched(@batch, %{n: &1}, %{source: :bench}))
        end),
        measure("flush", fn call -> call.(fn -> SampledEvents.flush(@batch) end) end),
        measure("sweep", fn call ->
          SampledEvents.configure_event(@event, window: 1)
          each(1..min(size, 100_000), call, &emit.({:short, &1}))
          Process.sleep(5)
          call.(fn -> Backend.running!().sweep() end)
        end)
      ]
    end)
  end

  # Spans of n living processes, of one with many open spans, and of one that dies with them.
  defp spans(size) do
    processes = max(div(size, 10), 100)

    others = Tables.owners(for n <- 1..processes, do: fn -> Span.start_span(:other, %{n: n}) end)

    some = min(size, 100_000)

    [
      measure("span", fn call ->
        Bench.pinned(fn ->
          each(1..some, call, fn n -> :ok = Span.end_span(Span.start_span(:work, %{n: n})) end)
        end)
      end),
      measure("span_nested", fn call ->
        Bench.pinned(fn ->
          ids = for n <- 1..1_000, do: call.(fn -> Span.start_span(:work, %{n: n}) end)
          each(Enum.reverse(ids), call, &Span.end_span/1)
        end)
      end),
      measure("spans_abandoned", fn _call -> Tables.stop(others) end)
    ]
  end

  # Terms that take long, at every place that takes a user's term. The size of the table is
  # irrelevant.
  defp hostile(_size) do
    {:ok, _pid} = Bulkhead.start_link(name: @bulkhead, max: 1)
    {:ok, _pid} = CircuitBreaker.start_link(name: @breaker)
    {:ok, _pid} = RateLimiter.start_link(name: @limiter, limit: {1_000, @hour})

    for {name, term} <- hostile_terms() do
      Tables.with_tables([:ours], :unique, fn ->
        {owner, result} =
          holding(fn ->
            measure("hostile_#{name}", fn call -> give(term, rebuild(term), call) end)
          end)

        Tables.stop([owner])
        result
      end)
    end
  end

  # Just below the bound for a normal scheduler, and far above it.
  defp hostile_terms do
    long = :binary.copy("0123456789", 1_000_000)
    # The VM copies the bytes of a binary that starts within a byte, to tell where they are.
    <<_::3, unaligned::binary-size(10_000_000), _::5>> = <<0::3, long::binary, 0::5>>

    [
      list: Enum.to_list(1..990),
      map: Map.new(1..990, &{&1, &1}),
      binaries: for(n <- 1..990, do: :binary.copy(<<n::32>>, 20)),
      references: for(_n <- 1..990, do: make_ref()),
      binary_250kb: :binary.copy("0123456789", 25_000),
      deep: Enum.reduce(1..200_000, [], fn _level, inner -> [inner] end),
      wide: Tuple.duplicate(:wide, 200_000),
      binary: long,
      binary_in_tuple: {:in, long},
      binary_in_map: %{in: long},
      bits: %{in: <<long::binary, 5::3>>},
      unaligned: unaligned,
      unaligned_in_tuple: {:in, unaligned},
      integers: for(n <- 1..20, do: Bitwise.bsl(n, 4_000_000)),
      function: fn -> long end
    ]
  end

  defp rebuild(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  defp give(term, copy, call) do
    run = fn functions -> Enum.each(functions, call) end
    key = {:hostile, term}

    for n <- 1..20 do
      run.([
        fn -> register(term, term) end,
        fn -> Registry.lookup(@table, copy) end,
        fn -> Registry.lookup_many(@table, [copy, term, copy]) end,
        fn -> Registry.whereis_name({@table, copy}) end,
        fn -> Registry.keys(@table, self()) end,
        fn -> Stream.run(Registry.stream(@table)) end,
        fn -> Registry.match(@table, copy, :_) end,
        fn -> Registry.update_value(@table, copy, & &1) end,
        fn -> Registry.unregister(@table, copy) end,
        fn -> Registry.put_meta(@table, key, term) end,
        fn -> Registry.delete_meta(@table, key) end,
        fn -> SampledEvents.emit_event(@event, %{}, %{}, dedup_key: {n, copy}) end,
        fn -> SampledEvents.emit_batched(@batch, %{n: n}, %{term: term}) end,
        fn -> Sampler.should_sample?(copy, %{}) end,
        fn -> Bulkhead.run({@bulkhead, copy}, fn -> :ok end) end,
        fn -> CircuitBreaker.run({@breaker, copy}, fn -> :ok end) end,
        fn -> RateLimiter.take({@limiter, copy}) end
      ])
    end

    run.([fn -> SampledEvents.flush(@batch) end, fn -> Span.start_span(term, %{term: term}) end])
    for _n <- 1..20, do: call.(fn -> Span.record_event(:event, %{term: term}) end)
    run.([fn -> Span.current_span() end, fn -> Span.end_span() end])
  end

  defp register(key, value), do: {:ok, _owner} = Registry.register(@table, key, value)

  defp each(enumerable, call, fun), do: Enum.each(enumerable, &call.(fn -> fun.(&1) end))

  # A process that owns the entries that `fun` registers, and has what `fun` returned. It stays on
  # one scheduler. Its heap is large enough that no garbage collection interrupts a call.
  defp holding(fun) do
    caller = self()

    pid =
      :erlang.spawn_opt(
        fn ->
          send(caller, {:held, self(), fun.()})
          Process.sleep(:infinity)
        end,
        [:link, scheduler: 1, min_heap_size: 4_000_000]
      )

    receive do
      {:held, ^pid, result} ->
        Process.unlink(pid)
        {pid, result}
    end
  end

  defp together(count, fun) do
    1..count
    |> Enum.map(fn n -> Task.async(fn -> fun.(n) end) end)
    |> Enum.each(&Task.await(&1, :infinity))
  end

  defp read(size, call) do
    each(1..min(size, 50_000), call, &Registry.lookup(@table, rem(&1 * 7_919, size) + 1))
  end

  defp write(n, size, call) do
    each(1..min(size, 50_000), call, fn k ->
      register({n, k}, nil)
      Registry.unregister(@table, {n, k})
    end)
  end

  # Kills the processes and returns when their entries are gone.
  defp exits(pids, left) do
    Tables.stop(pids)
    Bench.spin_until(fn -> Registry.count(@table) == left end)
  end
end

Bench.SchedulerProbe.main(System.argv())
