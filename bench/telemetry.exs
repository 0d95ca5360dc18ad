defmodule Bench.Telemetry do
  @moduledoc false
  # Events and spans without handlers, against what an application would write itself.

  alias Bench.Row
  alias Foundation.Telemetry.Events.Backend
  alias Foundation.Telemetry.{SampledEvents, Span}

  @growth [1_000, 10_000, 100_000, 1_000_000]

  @event [:bench, :event]
  @table Bench.Telemetry.Table
  # Longer than any run.
  @window 600_000
  # Longer than a round.
  @short_window 100

  # The calls that clients write. They differ in the place of the key and in the options.
  @calls [
    {"option", :option, []},
    {"option, window", :option, [window: @window]},
    {"metadata", :metadata, []},
    {"metadata, window", :metadata, [window: @window]},
    {"whole metadata", :whole, []},
    {"whole metadata, window", :whole, [window: @window]},
    {"module", :module, []}
  ]
  @calls_at_least for {name, _key, _options} <- @calls, into: %{}, do: {name, {:at_least, 2.5}}
  @new_at_least for {name, _key, _options} <- @calls, into: %{}, do: {name, {:at_least, 2}}

  defmodule Events do
    @moduledoc false
    use Foundation.Telemetry.SampledEvents, prefix: [:bench]
  end

  defmodule Windows do
    @moduledoc false
    # Windows in the map of a process.
    use GenServer

    def start_link, do: GenServer.start_link(__MODULE__, nil)
    def first?(server, key, window), do: GenServer.call(server, {:first?, key, window})

    @impl true
    def init(nil), do: {:ok, %{}}

    @impl true
    def handle_call({:first?, key, window}, _from, windows) do
      now = System.monotonic_time(:millisecond)

      case windows do
        %{^key => expires} when now < expires -> {:reply, false, windows}
        _ -> {:reply, true, Map.put(windows, key, now + window)}
      end
    end
  end

  defmodule Batches do
    @moduledoc false
    # Events in the list of a process.
    use GenServer

    def start_link, do: GenServer.start_link(__MODULE__, nil)
    def append(server, name, m, md), do: GenServer.cast(server, {:append, name, m, md})
    def take(server), do: GenServer.call(server, :take, :infinity)

    @impl true
    def init(nil), do: {:ok, []}

    @impl true
    def handle_cast({:append, name, m, md}, events), do: {:noreply, [{name, m, md} | events]}

    @impl true
    def handle_call(:take, _from, events), do: {:reply, length(events), []}
  end

  defmodule Stacks do
    @moduledoc false
    # Open spans in the map of a process.
    use GenServer

    def start_link, do: GenServer.start_link(__MODULE__, nil)
    def start(server, name, attributes), do: GenServer.call(server, {:start, name, attributes})
    def stop(server, id), do: GenServer.call(server, {:stop, id})

    @impl true
    def init(nil), do: {:ok, %{}}

    @impl true
    def handle_call({:start, name, attributes}, {pid, _tag}, stacks) do
      id = System.unique_integer()
      span = {id, name, attributes, System.monotonic_time()}
      {:reply, id, Map.update(stacks, pid, [span], &[span | &1])}
    end

    def handle_call({:stop, id}, {pid, _tag}, stacks) do
      case stacks do
        %{^pid => [{^id, _name, _attributes, started} | rest]} ->
          {:reply, {:ok, System.monotonic_time() - started}, %{stacks | pid => rest}}

        _ ->
          {:reply, :error, stacks}
      end
    end
  end

  def rows do
    [
      %Row{
        name: :dedup_hit,
        what: "emit a repeated event",
        theirs: "ETS lookup and clock",
        sizes: [10_000],
        quick: [1_000],
        growth: @growth,
        processes: 10_000,
        target: Map.put(@calls_at_least, "option", {:at_least, 4}),
        run: &dedup_hit/2
      },
      %Row{
        name: :dedup_new,
        what: "emit the first event of a window",
        theirs: "ETS insert_new",
        sizes: [10_000],
        quick: [1_000],
        growth: @growth,
        processes: 10_000,
        fills?: true,
        target: Map.put(@new_at_least, "option", {:at_least, 4.5}),
        run: &dedup_new/2
      },
      %Row{
        name: :dedup_genserver,
        what: "emit a repeated event",
        theirs: "GenServer",
        sizes: [10_000],
        quick: [1_000],
        growth: @growth,
        processes: 10_000,
        target: {:at_least, 15},
        run: &dedup_genserver/2
      },
      %Row{
        name: :batch_append,
        what: "emit an event into a batch",
        theirs: %{"ets" => "ETS ordered_set", "cast" => "GenServer.cast"},
        sizes: [100_000],
        quick: [1_000],
        growth: @growth,
        processes: 100_000,
        fills?: true,
        target: %{"ets" => {:at_least, 3}, "cast" => {:at_least, 1.8}},
        run: &batch_append/2
      },
      %Row{
        name: :span,
        what: "start and end a span",
        theirs: "two GenServer.call",
        sizes: [1],
        processes: 1,
        target: {:at_least, 12},
        run: &span/2
      }
    ]
  end

  # Theirs has the same key, made in the same way from the same arguments.
  defp dedup_hit(size, context) do
    for {variant, where, options} <- calls(context) do
      repeats(size, context, call(where, options), &call_of(where, &1), fn calls ->
        :ets.new(@table, [:named_table, :public, read_concurrency: true])

        expires =
          System.monotonic_time() + System.convert_time_unit(@window, :millisecond, :native)

        for n <- 1..size, do: :ets.insert(@table, {{@event, call_of(where, n)}, expires})

        look = fn key ->
          [{_key, expires}] = :ets.lookup(@table, {@event, key})
          if System.monotonic_time() >= expires, do: raise("expired")
        end

        cost = fn fun -> &Bench.cost(context, calls.(&1), fun) end
        result = Bench.pair(context, cost.(call(where, options)), cost.(look), variant: variant)

        :ets.delete(@table)
        result
      end)
    end
  end

  # One call shows how the row grows.
  defp calls(%{growth?: true}), do: [hd(@calls)]
  defp calls(_context), do: @calls

  # A client's call for a key, and the key that it passes.
  defp call(:option, options),
    do: &SampledEvents.emit_event(@event, %{count: 1}, %{}, [{:dedup_key, &1} | options])

  defp call(:metadata, options),
    do: &SampledEvents.emit_event(@event, %{count: 1}, %{dedup_key: &1}, options)

  defp call(:whole, options), do: &SampledEvents.emit_event(@event, %{count: 1}, &1, options)
  defp call(:module, []), do: &Events.emit_event(:event, %{count: 1}, %{dedup_key: &1})

  defp call_of(:whole, n), do: %{user_id: n, action: :login}
  defp call_of(_where, n), do: n

  defp new_key(:whole, round, n, size), do: call_of(:whole, round * size + n)
  defp new_key(_where, round, n, _size), do: {round, n}

  defp dedup_genserver(size, context) do
    emit = call(:option, [])

    repeats(size, context, emit, & &1, fn keys ->
      {:ok, server} = Windows.start_link()
      for n <- 1..size, do: true = Windows.first?(server, {@event, n}, @window)

      ask = &Windows.first?(server, {@event, &1}, @window)

      cost = fn fun -> &Bench.cost(context, keys.(&1), fun) end
      result = Bench.pair(context, cost.(emit), cost.(ask))

      GenServer.stop(server)
      result
    end)
  end

  # Every key has its window when `fun` is called with the keys of repeats.
  defp repeats(size, context, emit, key, fun) do
    SampledEvents.configure_event(@event, window: @window)
    keys = Enum.map(1..size, key)
    Enum.each(keys, emit)
    before = SampledEvents.stats(@event)

    result = Bench.with_rounds(keys, context, fn keys -> Bench.pinned(fn -> fun.(keys) end) end)

    Bench.check!("emitted", SampledEvents.stats(@event).emitted, before.emitted)
    close()
    result
  end

  # Closes all windows.
  defp close do
    Supervisor.terminate_child(Foundation.Supervisor, Foundation.TelemetrySupervisor)
    Supervisor.restart_child(Foundation.Supervisor, Foundation.TelemetrySupervisor)
  end

  # Each round has keys of its own, in a table that was empty. Neither side closes a window while it
  # is timed: ours outlive the round, and both tables are emptied after it.
  defp dedup_new(size, context) do
    for {variant, where, options} <- calls(context) do
      options = if options == [], do: [], else: [window: @short_window]
      dedup_new(size, context, variant, where, call(where, options))
    end
  end

  defp dedup_new(size, context, variant, where, emit) do
    SampledEvents.configure_event(@event, window: @short_window)
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
    keys = fn round -> for n <- 1..size, do: new_key(where, round, n, size) end

    result =
      Bench.pinned(fn ->
        ours = fn round ->
          keys = keys.(round)
          before = SampledEvents.stats(@event)
          taken = Bench.cost(context, keys, emit)
          emitted = SampledEvents.stats(@event).emitted - before.emitted
          Bench.check!("emitted", emitted, size)
          execute = fn _key -> :telemetry.execute(@event, %{count: 1}, %{}) end
          alone = Bench.cost(context, keys, execute)
          Process.sleep(@short_window + 1)
          Backend.running!().sweep()
          taken - alone
        end

        theirs = fn round ->
          taken =
            Bench.cost(context, keys.(round), fn key ->
              true = :ets.insert_new(@table, {{@event, key}, System.monotonic_time()})
            end)

          :ets.delete_all_objects(@table)
          taken
        end

        Bench.pair(context, ours, theirs, variant: variant)
      end)

    :ets.delete(@table)
    result
  end

  defp batch_append(size, context) do
    # It is faster without this option for one writer.
    several? = context.processes != nil
    :ets.new(@table, [:named_table, :ordered_set, :public, write_concurrency: several?])
    {:ok, server} = Batches.start_link()
    name = [:bench, :batch]
    events = Enum.to_list(1..size)

    ours = fn _round ->
      SampledEvents.configure_event(name, batch_size: 10_000_000, batch_timeout: 600_000)
      before = SampledEvents.stats(name)

      taken =
        Bench.cost(
          context,
          events,
          &SampledEvents.emit_batched(name, %{n: &1}, %{source: :bench})
        )

      pending = SampledEvents.stats(name).pending - before.pending
      Bench.check!("pending", pending, size)
      SampledEvents.configure_event(name, batch_size: 1_000)
      SampledEvents.flush(name)
      taken
    end

    insert = fn n ->
      key = {name, :erlang.unique_integer([:monotonic])}
      :ets.insert(@table, {key, %{n: n}, %{source: :bench}})
    end

    ets = fn _round ->
      taken = Bench.cost(context, events, insert)
      Bench.check!("size", :ets.info(@table, :size), size)
      :ets.delete_all_objects(@table)
      taken
    end

    cast = fn _round ->
      taken =
        Bench.cost(context, events, &Batches.append(server, name, %{n: &1}, %{source: :bench}))

      Bench.check!("length", Batches.take(server), size)
      taken
    end

    results =
      for {variant, theirs} <- [{"ets", ets}, {"cast", cast}] do
        Bench.pinned(fn -> Bench.pair(context, ours, theirs, variant: variant) end)
      end

    GenServer.stop(server)
    :ets.delete(@table)
    results
  end

  defp span(_size, context) do
    {:ok, server} = Stacks.start_link()
    times = Enum.to_list(1..context.per_round)

    result =
      Bench.pinned(fn ->
        ours = fn _n -> :ok = Span.end_span(Span.start_span(:work, %{n: 1})) end

        theirs = fn _n ->
          {:ok, _duration} = Stacks.stop(server, Stacks.start(server, :work, %{n: 1}))
        end

        cost = fn fun -> fn _round -> Bench.cost(context, times, fun) end end
        Bench.pair(context, cost.(ours), cost.(theirs))
      end)

    GenServer.stop(server)
    result
  end
end
