Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.RegistryReads do
  @moduledoc false
  # Reads of a registry that does not change.

  alias Bench.{Context, Row, Tables}

  @sizes [1_000, 100_000, 1_000_000]
  @growth [1_000, 10_000, 100_000, 1_000_000, 10_000_000]

  # Constants: a call that fetches the name would be timed too.
  @ours Tables.ours()
  @theirs Tables.theirs()
  @ets Tables.ets()

  def rows do
    [
      %Row{
        name: :lookup_ets,
        what: "look up one key",
        theirs: "ETS",
        sizes: @sizes,
        quick: [1_000],
        growth: @growth,
        processes: 100_000,
        target: %{1_000 => at_least(3.8), 100_000 => at_least(3.5), 1_000_000 => at_least(3)},
        run: &for_kinds([:integer, :binary], &1, &2, fn a, b, c -> lookup_ets(a, b, c, nil) end)
      },
      %Row{
        name: :lookup_ets_tuple,
        what: "look up one key {:agent, id}",
        theirs: "ETS",
        sizes: [100_000],
        quick: [1_000],
        growth: [1_000, 10_000, 100_000, 1_000_000],
        target: at_least(3),
        run: &for_kinds([:tuple], &1, &2, fn a, b, c -> lookup_ets(a, b, c, nil) end)
      },
      %Row{
        name: :lookup,
        what: "look up one key",
        theirs: "Registry",
        sizes: @sizes,
        quick: [1_000],
        growth: @growth,
        processes: 100_000,
        target: %{1_000 => at_least(8), 100_000 => at_least(5), 1_000_000 => at_least(4.3)},
        run: &for_kinds([:integer, :binary], &1, &2, fn a, b, c -> lookup(a, b, c) end)
      },
      %Row{
        name: :whereis,
        what: "find the process of one key, the same of all",
        theirs: "Registry",
        sizes: @sizes,
        quick: [1_000],
        growth: @growth,
        processes: 100_000,
        target: %{1_000 => at_least(8.5), 100_000 => at_least(5), 1_000_000 => at_least(4.3)},
        run: &for_kinds([:integer, :binary], &1, &2, fn a, b, c -> whereis(a, b, c) end)
      },
      %Row{
        name: :whereis_cold,
        what: "find the process of one key, one a key",
        theirs: "Registry",
        sizes: [1_000, 100_000],
        quick: [1_000],
        growth: [1_000, 10_000, 100_000],
        target: %{1_000 => at_least(6), 100_000 => at_least(1.8)},
        run: &for_kinds([:integer, :binary], &1, &2, fn a, b, c -> whereis_cold(a, b, c) end)
      },
      %Row{
        name: :lookup_many,
        what: "look up one of 1,000 keys",
        theirs: "ETS",
        sizes: @sizes,
        quick: [1_000],
        growth: @growth,
        processes: 100_000,
        target: %{1_000 => at_least(6), 100_000 => at_least(10), 1_000_000 => at_least(9)},
        run: &for_kinds([:integer, :binary], &1, &2, fn a, b, c -> lookup_many(a, b, c) end)
      },
      %Row{
        name: :value_map,
        what: "look up a map of 3 keys",
        theirs: "ETS",
        sizes: [100_000],
        quick: [1_000],
        growth: [1_000, 10_000, 100_000, 1_000_000],
        processes: 100_000,
        target: at_least(3),
        run: fn size, context ->
          lookup_ets(:integer, size, context, %{
            name: "agent",
            started: 1_700_000_000,
            state: :idle
          })
        end
      },
      %Row{
        name: :value_10kb,
        what: "look up 10 kB",
        theirs: "ETS",
        sizes: [1_000],
        quick: [100],
        growth: [1_000, 10_000, 100_000],
        target: %{"binary" => at_least(3.2), "term" => at_least(0.75)},
        run: fn size, context ->
          [
            named("binary", lookup_ets(:integer, size, context, :binary.copy("x", 10_000))),
            # 16 bytes per cell.
            named("term", lookup_ets(:integer, size, context, Enum.to_list(1..625)))
          ]
        end
      }
    ]
  end

  defp at_least(times), do: {:at_least, times}

  defp for_kinds(kinds, size, context, measure) do
    for kind <- kinds, kind not in left_out(size, context) do
      named("#{kind}", measure.(kind, size, context))
    end
  end

  # A row that shows growth uses one kind, if measuring all takes long or much memory.
  defp left_out(size, %{growth?: true} = context)
       when size > 1_000_000 or context.processes != nil,
       do: [:binary]

  defp left_out(_size, _context), do: []

  defp named(variant, result), do: %{result | variant: variant}

  defp lookup_ets(kind, size, context, value) do
    keys = Bench.keys(kind, size)

    Tables.with_entries([:ours, :ets], keys, value, fn owner ->
      ours = &Foundation.Registry.lookup(@ours, &1)
      theirs = &:ets.lookup(@ets, &1)

      for key <- sample(keys) do
        Bench.check!("lookup", ours.(key), [{owner, value}])
        Bench.check!("ETS", theirs.(key), [{key, owner, value}])
      end

      each(keys, context, ours, theirs)
    end)
  end

  defp lookup(kind, size, context) do
    keys = Bench.keys(kind, size)

    Tables.with_entries([:ours, :theirs], keys, nil, fn owner ->
      ours = &Foundation.Registry.lookup(@ours, &1)
      theirs = &Registry.lookup(@theirs, &1)

      for key <- sample(keys) do
        Bench.check!("lookup", ours.(key), [{owner, nil}])
        Bench.check!("Registry", theirs.(key), [{owner, nil}])
      end

      each(keys, context, ours, theirs)
    end)
  end

  # `whereis_name/1` takes a tuple of the registry and the key. Both sides build it beforehand.
  defp whereis(kind, size, context) do
    keys = Bench.keys(kind, size)

    Tables.with_entries([:ours, :theirs], keys, nil, fn owner ->
      whereis_each(keys, context, fn _key -> owner end)
    end)
  end

  defp whereis_cold(kind, size, context) do
    keys = Bench.keys(kind, size)

    Tables.with_tables([:ours, :theirs], fn ->
      owners =
        Tables.owners(
          for key <- keys do
            fn ->
              Tables.register(:ours, key, nil)
              Tables.register(:theirs, key, nil)
            end
          end
        )

      try do
        owner_of = Map.new(Enum.zip(keys, owners))
        whereis_each(keys, context, &Map.fetch!(owner_of, &1))
      after
        Tables.stop(owners)
      end
    end)
  end

  defp whereis_each(keys, context, owner_of) do
    ours = fn key -> Foundation.Registry.whereis_name({@ours, key}) end
    theirs = fn key -> Registry.whereis_name({@theirs, key}) end

    for key <- sample(keys) do
      Bench.check!("whereis", ours.(key), owner_of.(key))
      Bench.check!("Registry", theirs.(key), owner_of.(key))
    end

    each(keys, context, ours, theirs)
  end

  defp lookup_many(kind, size, context) do
    keys = Bench.keys(kind, size)
    batch = min(1_000, size)
    context = %{context | per_round: batch}

    Tables.with_entries([:ours, :ets], keys, nil, fn owner ->
      ours = &Foundation.Registry.lookup_many(@ours, &1)
      theirs = fn keys -> lookups(keys, @ets) end

      Bench.check!(
        "lookup_many",
        ours.(sample(keys)),
        for(_key <- sample(keys), do: [{owner, nil}])
      )

      Bench.check!(
        "ETS",
        theirs.(sample(keys)),
        for(key <- sample(keys), do: [{key, owner, nil}])
      )

      # Twenty batches a round, so that the clock's resolution does not matter.
      rounds = %{context | per_round: batch * if(context.quick?, do: 2, else: 20)}

      Bench.with_rounds(keys, rounds, fn keys_of ->
        Bench.pinned(fn ->
          cost = fn round, fun ->
            Bench.cost(context, Enum.chunk_every(keys_of.(round), batch), fun) / batch
          end

          Bench.pair(context, &cost.(&1, ours), fn round ->
            # ETS's side does not count the time to build a list of as many elements.
            cost.(round, theirs) - cost.(round, &same/1)
          end)
        end)
      end)
    end)
  end

  defp lookups([], _table), do: []
  defp lookups([key | rest], table), do: [:ets.lookup(table, key) | lookups(rest, table)]

  defp same([]), do: []
  defp same([key | rest]), do: [key | same(rest)]

  defp each(keys, %Context{} = context, ours, theirs) do
    Bench.with_rounds(keys, context, fn keys_of ->
      Bench.pinned(fn ->
        cost = fn fun -> &Bench.cost(context, keys_of.(&1), fun) end
        Bench.pair(context, cost.(ours), cost.(theirs))
      end)
    end)
  end

  defp sample(keys), do: Enum.take_every(keys, max(1, div(length(keys), 1_000)))
end
