defmodule Foundation.StoredValuesPropertyTest do
  @moduledoc """
  Random terms as values, and a term of each shape with its own representation in the VM. They are
  read, survive collections and are stored again. Each is compared by its external form.
  collections and are stored again. Each is compared down to its external form.
  """
  use Foundation.Case, async: true

  alias Foundation.{ConcurrentRegistry, RandomTerms, Registry}

  @terms 3_000

  for engine <- [:native, :ets] do
    test "values are unchanged after a read, a collection and a new store, on #{engine}" do
      table = ConcurrentRegistry.new(engine: unquote(engine))
      terms = shapes() ++ random_terms(@terms)

      for {term, n} <- Enum.with_index(terms) do
        ConcurrentRegistry.put(table, n, RandomTerms.rebuild(term))
        ConcurrentRegistry.put(table, {:again, n}, ConcurrentRegistry.get(table, n))
      end

      # A process with a small heap, which is collected while it holds the terms.
      reader =
        Task.async(fn ->
          for {_term, n} <- Enum.with_index(terms) do
            read = {ConcurrentRegistry.get(table, n), ConcurrentRegistry.get(table, {:again, n})}
            if rem(n, 50) == 0, do: :erlang.garbage_collect(self(), type: :minor)
            read
          end
          |> tap(fn _held -> :erlang.garbage_collect() end)
        end)

      for {{read, again}, term} <- Enum.zip(Task.await(reader, :infinity), terms) do
        assert RandomTerms.same?(read, term), "came back as another: #{show(term)}"
        assert RandomTerms.same?(again, term), "came back as another: #{show(term)}"
      end
    end

    test "stored maps of every size can be read and changed, on #{engine}" do
      name = unique_name("sizes")
      start_supervised!({Registry, name: name, keys: :unique, engine: unquote(engine)})

      for size <- Enum.concat(0..40, [63, 64, 100, 1_000, 5_000]) do
        map = Map.new(1..size//1, &{{:key, &1}, "value #{&1}"})
        {:ok, _owner} = Registry.register(name, size, map)
        [{_pid, read}] = Registry.lookup(name, size)
        :erlang.garbage_collect()
        assert map_size(read) == size
        assert Map.keys(read) == Map.keys(map)
        for n <- 1..size//1, do: assert(read[{:key, n}] == "value #{n}")
        assert Map.put(read, :more, 1) == Map.put(map, :more, 1)
        assert :erlang.phash2(read) == :erlang.phash2(map)
      end
    end
  end

  # The VM gives a NIF a temporary copy of such a binary, and frees it when the call ends.
  test "a long binary that starts within a byte of another one is the same after its call" do
    table = ConcurrentRegistry.new(engine: :native)

    for size <- [8_193, 400_000, 2_000_000], skip <- 1..7 do
      bytes = :rand.bytes(size)
      <<_::size(skip), part::binary-size(size), 0::1>> = <<0::size(skip), bytes::binary, 0::1>>
      ConcurrentRegistry.put(table, :alone, part)
      ConcurrentRegistry.put(table, :nested, {part, [part]})
      # Takes the memory that the VM freed.
      for byte <- 1..20, do: <<:binary.copy(<<byte>>, size)::bits, 0::1>>
      assert ConcurrentRegistry.get(table, :alone) == bytes
      assert ConcurrentRegistry.get(table, :nested) == {bytes, [bytes]}
    end
  end

  # The VM may move such a binary when it is shared, to free the room that was left for appending.
  test "a binary that is appended to is stored as it was, as a key and in its value" do
    table = ConcurrentRegistry.new(engine: :native)

    for size <- [100, 9_000, 400_000, 2_000_000] do
      chunk = :rand.bytes(div(size, 10))

      appended =
        Enum.reduce(1..10, <<>>, fn _, appended -> <<appended::binary, chunk::binary>> end)

      ConcurrentRegistry.put(table, appended, %{value: appended})
      longer = <<appended::binary, "more">>
      copy = :binary.copy(chunk, 10)
      assert longer == copy <> "more"
      assert ConcurrentRegistry.get(table, copy) == %{value: copy}
      assert ConcurrentRegistry.get(table, appended) == %{value: copy}
    end
  end

  # The lengths are around those at which the VM stores a binary in another way.
  defp shapes do
    binaries =
      for length <- [0, 1, 7, 8, 9, 63, 64, 65, 100, 8_192, 8_193, 100_000],
          do: :binary.copy("b", length)

    whole = :binary.copy("whole", 5_000)

    parts =
      for {at, length} <- [{1, 10}, {1, 64}, {2, 65}, {3, 9_000}], do: part(whole, at, length)

    bits = [<<1::1>>, <<0::600, 1::3>>, <<whole::bytes, 1::7>>]
    integers = for shift <- [58, 59, 60, 63, 64, 127, 128, 4_000], do: Bitwise.bsl(1, shift)
    references = [make_ref(), :erlang.alias(), :atomics.new(1, []), foreign_pid()]
    functions = [&Enum.map/2, fn -> whole end]
    empty = [{}, %{}, [], {{}}, [{}], %{{} => {}}, {%{}, {}, ""}]
    long = [Enum.to_list(1..20_000), List.to_tuple(Enum.to_list(1..20_000)), [1 | 2]]
    many = [for(n <- 1..100, do: :binary.copy("m", 60 + n)), for(_ <- 1..50, do: make_ref())]

    alone =
      binaries ++ parts ++ bits ++ integers ++ Enum.map(integers, &-/1) ++ references ++ functions

    alone ++
      empty ++ long ++ many ++ [alone, List.to_tuple(alone)] ++ Enum.map(alone, &%{in: [&1, 1.5]})
  end

  defp part(binary, at, length), do: binary_part(binary, at, length)

  # From ExUnit's seed, so that a failure can be repeated.
  defp random_terms(count) do
    :rand.seed(:exsss, ExUnit.configuration()[:seed])
    shared = RandomTerms.shared()
    for _ <- 1..count, do: RandomTerms.term(shared, :rand.uniform(5) - 1)
  end

  defp show(term), do: inspect(term, limit: 20, printable_limit: 40)
end
