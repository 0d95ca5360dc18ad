Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.RegistryConcurrency do
  @moduledoc false
  # Many processes at once. The figure is elapsed time divided by the number of all reads. With two
  # schedulers it is half of the time that a read takes.

  alias Bench.{Row, Tables}

  @growth [1_000, 10_000, 100_000, 1_000_000]

  @ours Tables.ours()
  @theirs Tables.theirs()

  def rows do
    [
      %Row{
        name: :reads_8p,
        what: "8 processes look up one key each",
        theirs: "Registry",
        growth: @growth,
        sizes: [100_000],
        quick: [1_000],
        target: {:at_least, 5},
        run: &reads_8p/2
      },
      %Row{
        name: :reads_while_writing,
        what: "look up while 2 processes write",
        theirs: "Registry",
        growth: @growth,
        processes: 100_000,
        sizes: [100_000],
        quick: [1_000],
        target: {:at_least, 4},
        run: &reads_while_writing/2
      },
      %Row{
        name: :dispatch,
        what: "reach the subscribers of a key",
        theirs: %{"dispatch" => "Registry.dispatch", "broadcast" => "dispatch and send"},
        growth: [1_000, 10_000, 100_000],
        fills?: true,
        sizes: [1_000],
        quick: [100],
        target: %{"dispatch" => {:at_least, 1.2}, "broadcast" => {:at_least, 2.5}},
        run: &dispatch/2
      }
    ]
  end

  defp reads_8p(size, context) do
    reads(size, context, 8, fn _side, measure -> measure.() end)
  end

  # The writers register and unregister keys of their own until the readers end.
  defp reads_while_writing(size, context) do
    reads(size, context, context.processes || 4, fn side, measure ->
      writers = for n <- 1..2, do: spawn(fn -> write(side, size + n * 1_000, 0) end)

      try do
        measure.()
      after
        Tables.stop(writers)
      end
    end)
  end

  defp reads(size, context, readers, around) do
    keys = Bench.keys(:integer, size)

    Tables.with_entries([:ours, :theirs], keys, nil, fn owner ->
      Bench.with_rounds(keys, context, fn keys_of ->
        for key <- Enum.take(keys, 100), side <- [:ours, :theirs] do
          Bench.check!("lookup", lookup(side).(key), [{owner, nil}])
        end

        cost = fn side, round ->
          around.(side, fn -> together(side, keys_of.(round), readers) end)
        end

        Bench.pair(context, &cost.(:ours, &1), &cost.(:theirs, &1))
      end)
    end)
  end

  # The readers begin at different places, so they do not read the same key at the same time.
  defp together(side, keys, readers) do
    length = length(keys)
    rotated = for n <- 1..readers, do: rotated(keys, div(length * n, readers))
    loop = Bench.together(rotated, & &1)
    (Bench.together(rotated, lookup(side)) - loop) / (length * readers)
  end

  defp rotated(keys, n) do
    {first, rest} = Enum.split(keys, n)
    rest ++ first
  end

  defp lookup(:ours), do: &Foundation.Registry.lookup(@ours, &1)
  defp lookup(:theirs), do: &Registry.lookup(@theirs, &1)

  defp write(side, first, n) do
    key = first + rem(n, 1_000)
    Tables.register(side, key, nil)
    unregister(side, key)
    write(side, first, n + 1)
  end

  defp unregister(:ours, key), do: Foundation.Registry.unregister(@ours, key)
  defp unregister(:theirs, key), do: Registry.unregister(@theirs, key)

  # The cost of one call of `dispatch/3`, and of one message of a broadcast. Subscribers run on
  # another scheduler. They have received all messages of one side before the other side's turn.
  defp dispatch(size, context) do
    Tables.with_tables([:ours, :theirs], :duplicate, fn ->
      subscribers = for _n <- 1..size, do: subscriber()
      for pid <- subscribers, do: call(pid, :subscribe)

      for side <- [:ours, :theirs] do
        Bench.check!("entries", entries(side), Enum.sort(for pid <- subscribers, do: {pid, nil}))
      end

      Bench.check!("broadcast", broadcast(:ours), size)
      # Enough calls to time.
      times = if context.quick?, do: 5, else: 50 |> min(div(50_000, size)) |> max(1)
      messages = min(times, 5)

      results =
        Bench.pinned(fn ->
          dispatched = fn side ->
            Bench.time(fn -> for _time <- 1..times, do: dispatch(side) end) / times
          end

          sent = fn side ->
            taken =
              Bench.time(fn -> for _time <- 1..messages, do: broadcast(side) end) / messages /
                size

            for pid <- subscribers, do: call(pid, :sync)
            taken
          end

          [
            Bench.pair(
              context,
              fn _n -> dispatched.(:ours) end,
              fn _n -> dispatched.(:theirs) end,
              variant: "dispatch"
            ),
            Bench.pair(context, fn _n -> sent.(:ours) end, fn _n -> sent.(:theirs) end,
              variant: "broadcast"
            )
          ]
        end)

      Tables.stop(subscribers)
      results
    end)
  end

  defp dispatch(:ours),
    do: Foundation.Registry.dispatch(@ours, :topic, fn _entries -> :ok end)

  defp dispatch(:theirs), do: Registry.dispatch(@theirs, :topic, fn _entries -> :ok end)

  defp broadcast(:ours), do: Foundation.Registry.broadcast(@ours, :topic, :message)

  defp broadcast(:theirs) do
    Registry.dispatch(@theirs, :topic, fn entries ->
      for {pid, _value} <- entries, do: send(pid, :message)
    end)
  end

  defp entries(side) do
    caller = self()
    collect = fn entries -> send(caller, {:entries, entries}) end

    case side do
      :ours -> Foundation.Registry.dispatch(@ours, :topic, collect)
      :theirs -> Registry.dispatch(@theirs, :topic, collect)
    end

    receive do
      {:entries, entries} -> Enum.sort(entries)
    end
  end

  defp subscriber do
    scheduler = min(2, System.schedulers_online())
    :erlang.spawn_opt(&subscribed/0, scheduler: scheduler)
  end

  defp subscribed do
    receive do
      :message ->
        subscribed()

      {:subscribe, from} ->
        for side <- [:ours, :theirs], do: Tables.register(side, :topic, nil)
        send(from, {:done, self()})
        subscribed()

      {:sync, from} ->
        send(from, {:done, self()})
        subscribed()
    end
  end

  defp call(pid, request) do
    send(pid, {request, self()})

    receive do
      {:done, ^pid} -> :ok
    end
  end
end
