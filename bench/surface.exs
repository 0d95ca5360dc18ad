Code.require_file("support/tables.exs", __DIR__)
Code.require_file("support/values.exs", __DIR__)

defmodule Bench.Surface do
  @moduledoc false
  # Every function of `Registry` that clients call often, over the values that clients keep.
  #
  # The size is the number of entries under a duplicate key, each of its own process. In a row of a
  # whole table it is the number of entries. In a row of one process it is the number of its keys.

  alias Bench.{Row, Tables, Values}
  alias Foundation.Registry, as: Ours
  alias Registry, as: Theirs

  # Constants: a call that fetches the name would be timed too.
  @ours Tables.ours()
  @theirs Tables.theirs()

  # The size of the value affects these calls as it affects `lookup`, so fewer values are enough.
  @few ~w(nil map_5 config)

  # A list of words under each of 1,000 entries is 16 MB per call.
  @most_words 200_000

  def rows do
    [
      %Row{
        name: :surface,
        what: "each function that a client of Registry calls, over its values",
        theirs: "Registry",
        sizes: [1, 10, 100, 1_000],
        quick: [1, 10],
        target: {:at_least, 1.0},
        mean: {:at_least, 2.5},
        ets_target: {:at_least, 0.8},
        ets_mean: {:at_least, 1.0},
        run: &surface/2
      }
    ]
  end

  defp surface(size, context) do
    unique = if size == 1, do: [&unique/2], else: []

    by_value =
      for measure <- unique ++ [&duplicate(&1, size, &2)],
          named <- Values.all(),
          do: fn context -> measure.(named, context) end

    whole = [&table(size, &1), &keys(size, &1), &death(size, &1)]
    Stream.flat_map(by_value ++ whole, & &1.(context))
  end

  ## One entry under a unique key

  defp unique({name, value} = named, context) do
    next = Values.next(value)

    tables(:unique, context, fn ->
      register_both(:key, value)
      put_meta(value)
      me = self()

      calls = [
        {"lookup", fn -> Ours.lookup(@ours, :key) end, fn -> Theirs.lookup(@theirs, :key) end},
        {"values", fn -> Ours.values(@ours, :key, me) end,
         fn -> Theirs.values(@theirs, :key, me) end},
        {"update_value", fn -> Ours.update_value(@ours, :key, fn _old -> next end) end,
         fn -> Theirs.update_value(@theirs, :key, fn _old -> next end) end},
        {"match", fn -> Ours.match(@ours, :key, :_) end,
         fn -> Theirs.match(@theirs, :key, :_) end},
        {"count_match", fn -> Ours.count_match(@ours, :key, :_) end,
         fn -> Theirs.count_match(@theirs, :key, :_) end},
        {"select", fn -> Ours.select(@ours, of_key()) end,
         fn -> Theirs.select(@theirs, of_key()) end},
        {"dispatch", fn -> Ours.dispatch(@ours, :key, fn _entries -> :ok end) end,
         fn -> Theirs.dispatch(@theirs, :key, fn _entries -> :ok end) end},
        {"meta", fn -> Ours.meta(@ours, :meta) end, fn -> Theirs.meta(@theirs, :meta) end},
        {"put_meta", fn -> Ours.put_meta(@ours, :other, value) end,
         fn -> Theirs.put_meta(@theirs, :other, value) end},
        {"register, unregister", fn -> register_unregister(Ours, @ours, value) end,
         fn -> register_unregister(Theirs, @theirs, value) end}
        | if(name == "nil", do: calls_without_values(me), else: [])
      ]

      measure(calls, "unique", named, context)
    end)
  end

  defp calls_without_values(me) do
    {ours, theirs} = {{@ours, :key}, {@theirs, :key}}

    [
      {"whereis_name", fn -> Ours.whereis_name(ours) end, fn -> Theirs.whereis_name(theirs) end},
      {"keys", fn -> Ours.keys(@ours, me) end, fn -> Theirs.keys(@theirs, me) end},
      {"count", fn -> Ours.count(@ours) end, fn -> Theirs.count(@theirs) end},
      {"lookup of no entry", fn -> Ours.lookup(@ours, :none) end,
       fn -> Theirs.lookup(@theirs, :none) end}
    ]
  end

  defp of_key, do: [{{:key, :"$1", :"$2"}, [], [{{:"$1", :"$2"}}]}]

  defp register_unregister(module, registry, value) do
    {:ok, _owner} = module.register(registry, :another, value)
    module.unregister(registry, :another)
  end

  ## Entries under a duplicate key

  defp duplicate({name, value} = named, size, context) do
    if size * :erts_debug.flat_size(value) > @most_words do
      []
    else
      tables(:duplicate, context, fn ->
        processes = subscribers(size, value)
        register_both(:own, value)

        calls =
          duplicate_reads(size) ++
            if(name in @few, do: duplicate_calls(self(), value), else: [])

        results = measure(calls, "duplicate", named, context)
        Tables.stop(processes)
        results
      end)
    end
  end

  defp duplicate_reads(_size) do
    [
      {"lookup", fn -> Ours.lookup(@ours, :key) end, fn -> Theirs.lookup(@theirs, :key) end},
      {"dispatch", fn -> Ours.dispatch(@ours, :key, fn _entries -> :ok end) end,
       fn -> Theirs.dispatch(@theirs, :key, fn _entries -> :ok end) end}
    ]
  end

  defp duplicate_calls(me, value) do
    [
      {"match", fn -> Ours.match(@ours, :key, :_) end, fn -> Theirs.match(@theirs, :key, :_) end},
      {"count_match", fn -> Ours.count_match(@ours, :key, :_) end,
       fn -> Theirs.count_match(@theirs, :key, :_) end},
      {"select", fn -> Ours.select(@ours, of_key()) end,
       fn -> Theirs.select(@theirs, of_key()) end},
      {"values", fn -> Ours.values(@ours, :own, me) end,
       fn -> Theirs.values(@theirs, :own, me) end},
      # A client that joins and leaves the key of the others.
      {"register, unregister", fn -> join_leave(Ours, @ours, value) end,
       fn -> join_leave(Theirs, @theirs, value) end}
    ]
  end

  defp join_leave(module, registry, value) do
    {:ok, _owner} = module.register(registry, :key, value)
    module.unregister(registry, :key)
  end

  ## A whole table, and a process with many keys

  defp table(size, context) do
    for name <- @few, size == 1_000 or context.quick?, reduce: [] do
      results ->
        value = Values.fetch!(name)

        tables(:unique, context, fn ->
          for key <- 1..size, do: register_both(key, value)
          all = [{{:"$1", :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}]
          count = [{{:_, :_, :_}, [], [true]}]
          by_pid = [{{:"$1", self(), :_}, [], [:"$1"]}]

          calls = [
            {"select all", fn -> Ours.select(@ours, all) end,
             fn -> Theirs.select(@theirs, all) end},
            {"select keys", fn -> Ours.select(@ours, by_pid) end,
             fn -> Theirs.select(@theirs, by_pid) end},
            {"count_select", fn -> Ours.count_select(@ours, count) end,
             fn -> Theirs.count_select(@theirs, count) end}
          ]

          results ++ measure(calls, "unique", {name, value}, context)
        end)
    end
  end

  defp keys(size, context) do
    for kind <- [:unique, :duplicate], reduce: [] do
      results ->
        tables(kind, context, fn ->
          for key <- 1..size, do: register_both(key, nil)
          me = self()

          calls = [
            {"keys of one process", fn -> Ours.keys(@ours, me) end,
             fn -> Theirs.keys(@theirs, me) end}
          ]

          results ++ measure(calls, "#{kind}", {"nil", nil}, context)
        end)
    end
  end

  # Processes that subscribe to a key of `size` entries and exit, until the table has no entry of
  # theirs.
  defp death(size, context) do
    tables(:duplicate, context, fn ->
      processes = subscribers(size, nil)
      count = if context.quick?, do: 20, else: 200

      cost = fn module, registry ->
        taken =
          Bench.time(fn ->
            subscribe_and_die(count, fn -> {:ok, _} = module.register(registry, :key, nil) end)
            Bench.spin_until(fn -> module.count(registry) == size end)
          end)

        (taken - Bench.time(fn -> subscribe_and_die(count, fn -> :ok end) end)) / count
      end

      result =
        Bench.pair(context, fn _n -> cost.(Ours, @ours) end, fn _n -> cost.(Theirs, @theirs) end,
          variant: "subscribe, exit: duplicate nil"
        )

      Tables.stop(processes)
      if wanted?(result.variant, context), do: [result], else: []
    end)
  end

  defp subscribe_and_die(count, fun) do
    monitors =
      for _n <- 1..count do
        {_pid, monitor} = :erlang.spawn_opt(fun, [:monitor, scheduler: 1])
        monitor
      end

    for monitor <- monitors do
      receive do
        {:DOWN, ^monitor, :process, _pid, reason} -> Bench.check!("exit", reason, :normal)
      end
    end
  end

  ## What they share

  # The entries of the client's own process are part of the measurement, so it runs in the timed
  # process.
  defp tables(kind, _context, fun),
    do: Tables.with_tables([:ours, :theirs], kind, fn -> Bench.pinned(fun) end)

  defp register_both(key, value) do
    for side <- [:ours, :theirs], do: Tables.register(side, key, value)
  end

  defp put_meta(value) do
    Ours.put_meta(@ours, :meta, value)
    Theirs.put_meta(@theirs, :meta, value)
  end

  defp subscribers(size, value),
    do: Tables.owners(List.duplicate(fn -> register_both(:key, value) end, size))

  defp measure(calls, kind, {name, _value}, context) do
    for {call, ours, theirs} <- calls,
        variant = "#{call}: #{kind} #{name}",
        wanted?(variant, context) do
      Bench.check!(variant, sorted(ours.()), sorted(theirs.()))
      Bench.repeated(context, ours, theirs, variant: variant)
    end
  end

  defp wanted?(_variant, %{only: nil}), do: true
  defp wanted?(variant, %{only: text}), do: String.contains?(variant, text)

  defp sorted(result) when is_list(result), do: Enum.sort(result)
  defp sorted(result), do: result
end
