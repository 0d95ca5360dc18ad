defmodule Foundation.JSONTest do
  use ExUnit.Case, async: true

  doctest Foundation.JSON

  defp encode(value), do: IO.iodata_to_binary(Foundation.JSON.encode(value))

  test "nil and booleans become JSON literals, other atoms strings" do
    assert encode([nil, true, false, :ok]) == ~S([null,true,false,"ok"])
  end

  test "numbers keep their value" do
    assert encode([0, -1, 123_456_789_012_345_678_901, 1.5, -0.25, 1.0e-9]) ==
             "[0,-1,123456789012345678901,1.5,-0.25,1.0e-9]"
  end

  test "quotes, backslashes and control characters are escaped" do
    assert encode("a\"b\\c\nd\te\r\0\x1f") == ~S("a\"b\\c\nd\te\r\u0000\u001F")
  end

  test "non-ASCII text is unchanged" do
    assert encode("é € 𝄞") == ~s("é € 𝄞")
  end

  test "invalid UTF-8 is replaced byte by byte" do
    assert encode(<<"a", 0xFF, "b", 0xC3>>) == ~s("a\uFFFDb\uFFFD")
  end

  test "an empty map becomes {} and an empty list []" do
    assert encode([%{}, []]) == "[{},[]]"
  end

  test "a map's keys may be atoms, strings and integers" do
    assert encode(%{1 => 1}) == ~S({"1":1})
    assert encode(%{"a b" => %{c: "d"}}) == ~S({"a b":{"c":"d"}})
  end

  test "a term without a JSON form raises" do
    for value <- [{1, 2}, self(), make_ref(), 1..2, [1 | 2]] do
      assert_raise ArgumentError, fn -> encode([value]) end
    end

    assert_raise ArgumentError, ~r/expected an object's key/, fn -> encode(%{{1} => 1}) end
  end
end
