defmodule Foundation.RandomTerms do
  @moduledoc """
  Random terms, drawn with `:rand` of the calling process. Many are hard to tell apart for an
  encoding.
  """

  import Bitwise
  import Foundation.Case, only: [foreign_pid: 2]
  import Foundation.Fuzz, only: [damage: 1, once_in: 1, pick: 1]

  @typedoc "Parts that several terms of one set may contain, and that cannot be made twice."
  @opaque shared :: {binary, reference, fun}

  @doc "Parts for one set of terms."
  @spec shared() :: shared
  def shared, do: {:binary.copy("shared", 50), make_ref(), fn -> :fun end}

  @doc "A term of at most this depth, apart from deep towers of tuples."
  @spec term(shared, non_neg_integer) :: term
  def term(shared, 0), do: leaf(shared)

  def term(shared, depth) do
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
        pick([1, -1]) * ((1 <<< pick([27, 28, 58, 59, 60, 62, 63, 64, 65, 128])) + few())

      4 ->
        pick([0.0, -0.0, 1.0, -1.0, 2.0, 5.0e-324, 1.0e308, 1.7976931348623157e308])

      5 ->
        1.0 * ((1 <<< pick([52, 53, 59, 63, 64])) + few())

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
        pick([self(), foreign_pid(:a@nowhere, few()), foreign_pid(:b@nowhere, 0)])

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

  defp few, do: :rand.uniform(3) - 1

  defp unaligned(binary) do
    part = after_bits(:rand.uniform(7), binary)
    binary_part(part, 0, pick([1, 15, 16, 64, 65, 100]))
  end

  # One clause for each, because Elixir 1.20 writes a variable size in a pattern differently.
  for skip <- 1..7 do
    defp after_bits(unquote(skip), <<_::unquote(skip), part::binary-size(100), _::bitstring>>),
      do: part
  end

  @doc "The term with one minimal change somewhere in it."
  @spec near(term) :: term
  def near(term) when is_integer(term) do
    pick([term + 1, term - 1, -term, bxor(term, 1 <<< pick([0, 1, 31, 59, 60, 63])), {term}])
    |> as_float()
  end

  # Up to OTP 29, `trunc(-576460752303423488.0)` is an integer of -2^59 that is unequal to all
  # others of that number. Its external form makes a proper one.
  def near(term) when is_float(term),
    do: pick([-term, term / 2, rebuild(trunc(term)), [term]])

  def near(term) when is_atom(term), do: pick([Atom.to_string(term), [term], {term}, nil, :a])

  def near(term) when is_binary(term) do
    case :rand.uniform(4) do
      1 -> term <> <<0>>
      2 -> <<term::binary, 0::1>>
      3 -> :binary.bin_to_list(term)
      4 -> damage(term)
    end
  end

  def near(term) when is_bitstring(term), do: <<term::bitstring, 0::1>>

  def near([head | tail]) do
    case :rand.uniform(6) do
      1 ->
        [near(head) | tail]

      2 ->
        tail

      3 ->
        [head, head | tail]

      4 ->
        if is_list(tail) and List.improper?([head | tail]), do: [head, tail], else: {head, tail}

      5 ->
        [head, tail]

      6 ->
        [head | near(tail)]
    end
  end

  def near(term) when is_tuple(term) and tuple_size(term) > 0 do
    at = :rand.uniform(tuple_size(term)) - 1

    case :rand.uniform(5) do
      1 -> Tuple.delete_at(term, at)
      2 -> Tuple.insert_at(term, at, elem(term, at))
      3 -> Tuple.to_list(term)
      _ -> put_elem(term, at, near(elem(term, at)))
    end
  end

  def near(term) when is_map(term) and map_size(term) > 0 do
    {key, value} = Enum.random(term)

    case :rand.uniform(4) do
      1 -> Map.delete(term, key)
      2 -> Map.put(term, near(key), value)
      3 -> Enum.sort(term)
      4 -> Map.put(term, key, near(value))
    end
  end

  def near(term), do: pick([{term}, [term], %{term => term}])

  defp as_float(term) do
    if once_in(3) and is_integer(term) and abs(term) < 1 <<< 1_000, do: term * 1.0, else: term
  end

  @doc "An equal term that shares no memory with this one, as in another process."
  @spec rebuild(term) :: term
  def rebuild(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  @doc "Whether two terms have the same external form, which tells `0.0` from `-0.0`."
  @spec same?(term, term) :: boolean
  def same?(one, other),
    do: one === other and :erlang.term_to_binary(one) == :erlang.term_to_binary(other)
end
