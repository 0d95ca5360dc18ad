defmodule Foundation.Terms do
  @moduledoc """
  Terms of every type, as keys and values. A table may encode them, must not confuse them, and
  returns them unchanged.
  """

  import Foundation.Case, only: [foreign_pid: 2]

  @doc "Terms with names for a failure report. No two of them are equal by `===`."
  @spec all() :: [{String.t(), term}]
  def all do
    immediates() ++
      numbers() ++ binaries() ++ lists() ++ tuples() ++ maps() ++ opaque() ++ large()
  end

  @doc "Groups of terms that a careless encoding, hash or pattern would confuse."
  @spec near_misses() :: [[term]]
  def near_misses do
    [
      [1, 1.0, "1", ~c"1", :"1", {1}, [1], %{1 => 1}, <<1>>, <<1::1>>],
      [[], {}, %{}, "", nil, false, :"", [[]], [{}], {[]}],
      [{1, 2}, {1, {2}}, {{1}, 2}, {{1, 2}}, [1, 2], [1 | 2], [[1], 2], [1, [2]], {[1], 2}],
      [{1, 1.0}, {1.0, 1}, {1, 1}, {1.0, 1.0}],
      [%{a: 1}, %{a: 1.0}, %{a: 1, b: 2}, %{a: 2}, %{"a" => 1}, %{1 => :a}, %{1.0 => :a}],
      [%{k: %{}}, %{k: %{a: 1}}, {:k, %{}}, {:k, %{a: 1}}, {:k, %{a: 1, b: 1}}],
      [:_, {:_, 1}, {:_, :_}, {2, 1}, [:_], [:_ | 1], [2 | 1], %{_: 1}, {:_}],
      [:"$1", :"$2", :"$_", :"$$", {:"$1", :"$1"}, {3, 3}, [:"$1"], %{a: :"$1"}, {:const, 1}],
      ["a", "a\0", "a\0\0", <<0>>, "", "\0a", <<"a", 0::1>>, <<"a", 0::7>>, ~c"a"],
      for(size <- 0..64, do: String.duplicate("x", size)),
      for(size <- 1..64, do: String.duplicate("x", size - 1) <> "y"),
      for(bits <- 1..24, do: <<0::size(bits)>>),
      for(
        power <- [7, 8, 15, 16, 27, 28, 31, 32, 59, 60, 63, 64, 127, 128],
        near <- [-1, 0, 1],
        do: Integer.pow(2, power) + near
      ),
      for(
        power <- [27, 28, 59, 60, 63, 64],
        near <- [-1, 0, 1],
        do: -Integer.pow(2, power) + near
      ),
      [2 ** 64, :erlang.float(2 ** 64), <<2 ** 64::128>>, -(2 ** 64)],
      [
        foreign_pid(:a@nowhere, 1),
        foreign_pid(:a@nowhere, 2),
        foreign_pid(:b@nowhere, 1),
        self()
      ],
      [
        &Kernel.+/2,
        &Kernel.-/2,
        &:erlang.+/1,
        fn -> 1 end,
        fn -> 2 end,
        fun_with(1),
        fun_with(2)
      ],
      [make_ref(), make_ref(), make_ref()]
    ]
  end

  @doc """
  `0.0` and `-0.0`, which are equal until OTP 26. They are parsed at run time, because a compiler
  may merge them.
  """
  @spec zeros() :: [float]
  def zeros, do: for(sign <- [0, 128], do: :erlang.binary_to_term(<<131, 70, sign, 0::56>>))

  defp immediates do
    for atom <- [nil, true, false, :atom, :"", :_, :"$1", :"with space", :añejo, Foundation],
        do: {"atom #{inspect(atom)}", atom}
  end

  defp numbers do
    integers =
      [0, 1, -1, 255, 256, 2 ** 27, 2 ** 31, 2 ** 59 - 1, 2 ** 59, -(2 ** 59), -(2 ** 59) - 1] ++
        [2 ** 63, 2 ** 64 - 1, 2 ** 64, -(2 ** 64), 2 ** 1_000, -(2 ** 1_000), 2 ** 5_000 + 1]

    floats = [1.0, -1.5, 1.0e308, 5.0e-324, 0.1]

    for(number <- integers, do: {"integer of #{bits(number)} bits, #{sign(number)}", number}) ++
      for(float <- floats, do: {"float #{float}", float})
  end

  defp binaries do
    whole = :binary.copy("sub-binary", 100)

    for(size <- 0..200, do: {"binary of #{size} bytes", :binary.copy("b", size)}) ++
      [
        {"binary of zeros", <<0, 0, 0, 0>>},
        {"binary that is no text", <<255, 254, 0, 128>>},
        {"short sub-binary", binary_part(whole, 3, 20)},
        {"long sub-binary", binary_part(whole, 7, 300)},
        {"bitstring of 1 bit", <<1::1>>},
        {"bitstring of 9 bits", <<511::9>>},
        {"bitstring of 5,003 bits", <<whole::binary-size(625), 5::3>>},
        {"unaligned bitstring", unaligned(whole)}
      ]
  end

  defp unaligned(<<_skipped::3, rest::bitstring-size(77), _::bitstring>>), do: rest

  defp lists do
    [
      {"empty list", []},
      {"charlist", ~c"charlist"},
      {"list of integers", Enum.to_list(1..50)},
      {"nested list", [[[[]]], [[], [[1]]]]},
      {"improper list", [1, 2 | 3]},
      {"improper list of binaries", ["a" | "b"]},
      {"keyword list", [a: 1, b: [c: 2]]},
      {"list of 10,000", Enum.to_list(1..10_000)}
    ]
  end

  defp tuples do
    [
      {"empty tuple", {}},
      {"1-tuple", {1}},
      {"tuple of atom and binary", {:agent, "id-123"}},
      {"nested tuple", {{1, {2, {3, {}}}}, [{4}]}},
      {"tuple of 300", List.to_tuple(Enum.to_list(1..300))},
      {"tuple with a map", {:with, %{a: 1}}},
      {"tuple with all", {1, 1.5, :a, "b", [1 | 2], %{}, self(), 2 ** 70, <<1::3>>}},
      {"tuple with _", {:_, 1}},
      {"tuple with $1", {:"$1", :"$2"}},
      {"tuple of equal beginning, 1", {:prefix, "0123456789", 1}},
      {"tuple of equal beginning, 2", {:prefix, "0123456789", 2}}
    ]
  end

  defp maps do
    for(
      size <- [0, 1, 2, 31, 32, 33, 100],
      do: {"map of #{size}", Map.new(1..size//1, &{&1, {&1}})}
    ) ++
      [
        {"map of maps", %{a: %{b: %{c: %{}}}}},
        {"map with keys of every kind", Map.new([1, 1.0, "1", {1}, [1], %{}], &{&1, &1})},
        {"struct", %URI{host: "example.org"}},
        {"large map in a tuple", {:m, Map.new(1..40, &{"key#{&1}", &1})}}
      ]
  end

  defp opaque do
    [port | _] = Port.list()

    [
      {"local pid", self()},
      {"external pid", foreign_pid(:nobody@nowhere, 3)},
      {"tuple with an external pid", {:at, foreign_pid(:nobody@nowhere, 4)}},
      {"reference", make_ref()},
      {"alias reference", :erlang.alias()},
      {"port", port},
      {"local function", &immediates/0},
      {"closure", fun_with({:some, "environment"})},
      {"external function", &Map.get/3},
      {"external function of a module that is not", Function.capture(:no_such_module, :f, 7)}
    ]
  end

  defp large do
    [
      {"binary of 1 MB", :binary.copy(<<"0123456789abcdef">>, 65_536)},
      {"binary of 1 MB, last byte another",
       :binary.copy(<<"0123456789abcdef">>, 65_535) <> "0123456789abcdeF"},
      {"100,000 lists deep", Enum.reduce(1..100_000, [], fn _level, inner -> [inner] end)},
      {"100,000 tuples deep", Enum.reduce(1..100_000, {}, fn _level, inner -> {inner} end)},
      {"10,000 maps deep", Enum.reduce(1..10_000, %{}, fn _level, inner -> %{in: inner} end)},
      {"map of 10,000", Map.new(1..10_000, &{&1, "value #{&1}"})}
    ]
  end

  defp fun_with(captured), do: fn -> captured end

  defp bits(0), do: 1
  defp bits(number), do: number |> abs() |> Integer.digits(2) |> length()

  defp sign(number) when number < 0, do: "ending in #{rem(number, 10)}"
  defp sign(number), do: "ending in +#{rem(number, 10)}"
end
