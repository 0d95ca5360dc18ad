defmodule Foundation.RegistryTermsPropertyTest do
  @moduledoc """
  Random terms as keys and values. What two terms are, one key or two, is what a map of the VM says of
  them; what comes back of a value is compared down to its external form, which tells `0.0` from `-0.0`.
  """
  use Foundation.Case, async: true

  import Bitwise

  alias Foundation.Registry

  @terms 5_000

  for engine <- [:native, :ets] do
    test "terms are one key if and only if they are equal, on #{engine}" do
      name = start_registry(unquote(engine))
      terms = random_terms(@terms)

      model =
        Enum.reduce(terms, %{}, fn term, model ->
          copy = rebuild(term)

          case Registry.register(name, copy, term) do
            {:ok, _owner} ->
              refute is_map_key(model, term), "told apart from its equal: #{show(term)}"

            {:error, {:already_registered, _pid}} ->
              assert is_map_key(model, term), "taken for another: #{show(term)}"
              assert [_entry] = Registry.match(name, copy, :_)
              assert [_value] = Registry.values(name, copy, self())
          end

          Map.put_new(model, term, term)
        end)

      assert map_size(model) > div(@terms, 4)

      for {key, value} <- model do
        assert [{_pid, found}] = Registry.lookup(name, rebuild(key))
        assert same?(found, value), "came back as another: #{show(value)}, #{show(found)}"
      end

      keys = Registry.keys(name, self())
      assert length(keys) == map_size(model)
      for key <- keys, do: assert(is_map_key(model, key), "no such key: #{show(key)}")

      for {key, _value} <- model, do: :ok = Registry.unregister(name, key)
      assert Registry.count(name) == 0
    end
  end

  defp start_registry(engine) do
    name = unique_name("terms")
    start_supervised!({Registry, name: name, keys: :unique, engine: engine})
    name
  end

  # From ExUnit's seed, so that a failure can be had again.
  defp random_terms(count) do
    :rand.seed(:exsss, ExUnit.configuration()[:seed])
    shared = {:binary.copy("shared", 50), make_ref(), fn -> :fun end}
    for _ <- 1..count, do: term(shared, :rand.uniform(5) - 1)
  end

  defp term(shared, 0), do: leaf(shared)

  defp term(shared, depth) do
    some = fn most -> for _ <- 1..:rand.uniform(most)//1, do: term(shared, depth - 1) end

    case :rand.uniform(9) do
      1 -> List.to_tuple(some.(4))
      2 -> some.(4)
      3 -> some.(3) ++ leaf(shared)
      4 -> Map.new(some.(3), &{&1, leaf(shared)})
      5 -> Map.new(1..(30 + :rand.uniform(5)), &{&1, :rand.uniform(2)})
      6 -> List.duplicate(leaf(shared), :rand.uniform(300))
      7 -> Tuple.duplicate(leaf(shared), pick([0, 1, 31, 32, 33, 127, 128, 200]))
      8 -> Enum.reduce(1..pick([14, 15, 16, 17, 40]), leaf(shared), fn _, inner -> {inner} end)
      9 -> leaf(shared)
    end
  end

  defp leaf({binary, ref, fun}) do
    case :rand.uniform(14) do
      1 ->
        pick([nil, true, :a, :b, :"", :é, :日本, [], {}, %{}, ""])

      2 ->
        :rand.uniform(4) - 2

      3 ->
        pick([1, -1]) * ((1 <<< pick([27, 28, 58, 59, 60, 62, 63, 64, 65, 128])) + near())

      4 ->
        pick([0.0, -0.0, 1.0, -1.0, 2.0, 5.0e-324, 1.0e308, 1.7976931348623157e308])

      5 ->
        1.0 * ((1 <<< pick([52, 53, 59, 63, 64])) + near())

      6 ->
        :binary.copy(
          pick(["a", <<0>>, <<255>>]),
          pick([0, 1, 7, 8, 14, 15, 16, 63, 64, 65, 255, 300])
        )

      7 ->
        binary_part(binary, :rand.uniform(6), pick([1, 10, 63, 64, 65, 100]))

      8 ->
        unaligned(binary)

      9 ->
        <<:rand.uniform(4)::size(pick([1, 2, 3, 7, 9, 65]))>>

      10 ->
        pick([self(), foreign_pid(:a@nowhere, near()), foreign_pid(:b@nowhere, 0)])

      11 ->
        pick([ref, fun, &Enum.map/2, &Enum.filter/2])

      12 ->
        pick([~c"abc", ~c"ab", [97 | 98], [97, [98]], [[]], [nil], [0]])

      13 ->
        pick([1, 1.0, "1", ~c"1", :"1", {1}, [1], <<1>>, <<1::1>>])

      14 ->
        {:agent, "id-#{:rand.uniform(20)}"}
    end
  end

  defp near, do: :rand.uniform(3) - 1
  defp pick(choices), do: Enum.random(choices)

  defp unaligned(binary) do
    part = after_bits(:rand.uniform(7), binary)
    binary_part(part, 0, pick([1, 15, 16, 64, 65, 100]))
  end

  # A clause each: a variable as a size in a pattern is written differently before and after
  # Elixir 1.20.
  for skip <- 1..7 do
    defp after_bits(unquote(skip), <<_::unquote(skip), part::binary-size(100), _::bitstring>>),
      do: part
  end

  # An equal term that shares no memory with the first, as another process would have it.
  defp rebuild(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  defp same?(one, other),
    do: one === other and :erlang.term_to_binary(one) == :erlang.term_to_binary(other)

  defp show(term), do: inspect(term, limit: 20, printable_limit: 40)
end
