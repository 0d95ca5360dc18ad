defmodule Foundation.ErrorContext.Text do
  @moduledoc false
  # Turns a value into text: valid, without control characters, and at most `max_value_bytes` long.
  # A truncated text ends in `…`. No value may make this raise, because it runs where an application
  # reports its errors.

  import Bitwise

  alias Foundation.ErrorContext.Limits

  # A term that weighs more is inspected with at most this many items per collection and this many
  # bytes per string. Lists in lists then have 2^10 items.
  @inspected_weight 4_096
  @inspected_items 10
  @inspected_string 256

  # The printed size of a byte that is not UTF-8, in a bitstring: `255, `.
  @invalid_byte 5

  @ellipsis "…"

  # The VM stores such an integer in one word, with room to spare. Comparing larger ones is slow.
  defguard is_small(value)
           when is_integer(value) and value < 0x400000000000000 and value > -0x400000000000000

  # A terminal acts on these or breaks a line at them: C0 with DEL, C1, U+2028 and U+2029.
  defguardp is_control(char)
            when char < 0x20 or char in 0x7F..0x9F or char in 0x2028..0x2029

  # Nonzero if a byte of `word` is outside of 0x20..0x7E: a smaller byte borrows, 0x7F carries, and
  # from 0x80 on the high bit is set. `ones` has 1 in each byte.
  defguardp odd(word, ones)
            when band(bor(bor(word, word + ones), word - 0x20 * ones), 0x80 * ones)

  @doc """
  Returns whether `binary` is a valid string without control characters.
  """
  @spec clean?(binary) :: boolean
  # Tests several bytes at a time, as most strings are ASCII: see `odd/2`.
  def clean?(<<word::32, next::32, rest::binary>>)
      when bor(odd(word, 0x01010101), odd(next, 0x01010101)) == 0,
      do: clean?(rest)

  def clean?(<<word::16, rest::binary>>) when odd(word, 0x0101) == 0, do: clean?(rest)
  def clean?(<<byte, rest::binary>>) when byte >= 0x20 and byte < 0x7F, do: clean?(rest)
  def clean?(<<char::utf8, rest::binary>>) when not is_control(char), do: clean?(rest)
  def clean?(<<>>), do: true
  def clean?(_rest), do: false

  @doc """
  Returns `value` as text.
  """
  @spec of(term) :: String.t()
  def of(value) when is_integer(value), do: integer(value)

  def of(value) when is_binary(value) do
    max = Limits.max_value_bytes()

    if byte_size(value) <= max do
      if String.valid?(value), do: clean(value), else: inspected(value)
    else
      start = value |> binary_part(0, max) |> whole_characters()
      if String.valid?(start), do: clean(value, start), else: inspected(value)
    end
  end

  def of(%module{} = value) do
    case String.Chars.impl_for(value) do
      nil -> inspected(value)
      implementation -> printed(implementation.to_string(value))
    end
  catch
    # The protocol's implementation is the application's. Whatever it does, the context is set.
    _kind, _reason -> "%#{inspect(module)}{#{@ellipsis}}"
  end

  def of(value), do: inspected(value)

  # Takes the result of an implementation, which may be anything. A term that is not a string is
  # inspected.
  defp printed(text) when is_binary(text), do: of(text)
  defp printed(other), do: inspected(other)

  defp inspected(value) do
    if weigh(value, @inspected_weight) >= 0 do
      value |> inspect(limit: :infinity, printable_limit: :infinity) |> cut()
    else
      cut_short(value)
    end
  catch
    # As above, for an implementation of Inspect somewhere in the value.
    _kind, _reason -> kind_of(value) <> @ellipsis
  end

  defp cut_short(value) do
    text =
      inspect(value,
        limit: @inspected_items,
        printable_limit: @inspected_string,
        inspect_fun: &inspect_term/2
      )

    text = cut(text)
    if String.ends_with?(text, @ellipsis), do: text, else: text <> @ellipsis
  end

  defp inspect_term(term, _options) when is_integer(term) and not is_small(term) do
    integer(term)
  end

  defp inspect_term(term, options), do: Inspect.inspect(term, options)

  @doc """
  Subtracts the approximate number of bytes that `value` prints from `room`.

  Returns a negative number as soon as nothing is left, so a large value costs no more than `room`.
  """
  @spec weigh(term, integer) :: integer
  def weigh(_value, room) when room < 0, do: room
  def weigh([head | tail], room), do: weigh(tail, weigh(head, room - 2))

  def weigh(value, room) when is_tuple(value) do
    if 2 * tuple_size(value) > room,
      do: -1,
      else: weigh(Tuple.to_list(value), room)
  end

  def weigh(value, room) when is_map(value) do
    if 6 * map_size(value) > room,
      do: -1,
      else: weigh_pairs(:maps.to_list(value), room - 3)
  end

  def weigh(value, room) when is_binary(value) do
    cond do
      byte_size(value) > room -> -1
      String.valid?(value) -> room - byte_size(value) - 2
      true -> room - @invalid_byte * byte_size(value) - 4
    end
  end

  def weigh(value, room) when is_bitstring(value) do
    room - @invalid_byte * byte_size(value) - 8
  end

  def weigh(value, room) when is_atom(value), do: room - byte_size(Atom.to_string(value)) - 1
  def weigh(value, room) when value in -999..9_999, do: room - 4
  def weigh(value, room) when is_small(value), do: room - 20
  # A byte has 2.41 decimal digits.
  def weigh(value, room) when is_integer(value), do: room - div(5 * bytes(value), 2)
  def weigh(_value, room), do: room - 24

  defp weigh_pairs(_pairs, room) when room < 0, do: room

  defp weigh_pairs([{key, value} | rest], room) do
    weigh_pairs(rest, weigh(value, weigh(key, room - 6)))
  end

  defp weigh_pairs([], room), do: room

  defp bytes(integer), do: integer |> abs() |> :binary.encode_unsigned() |> byte_size()

  # Converting a large integer to decimal digits takes time quadratic in its length.
  defp integer(value) do
    case abs(value) do
      magnitude when magnitude < 0x10000000000000000_0000000000000000_0000000000000000 ->
        Integer.to_string(value)

      magnitude ->
        sign = if value < 0, do: "-", else: ""
        <<start::binary-size(16), _rest::binary>> = :binary.encode_unsigned(magnitude)
        sign <> "0x" <> Base.encode16(start) <> @ellipsis
    end
  end

  defp kind_of(value) when is_map(value), do: "%{"
  defp kind_of(value) when is_list(value), do: "["
  defp kind_of(value) when is_tuple(value), do: "{"
  defp kind_of(_value), do: ""

  defp cut(text) do
    max = Limits.max_value_bytes()

    cond do
      not String.valid?(text) -> cut_short(text)
      byte_size(text) <= max -> clean(text)
      true -> clean(text, text |> binary_part(0, max) |> whole_characters())
    end
  end

  defp clean(text), do: clean(text, text)

  # Escapes `start`, a prefix of `text` or all of it, and truncates it again if it got too long.
  # Returns a copy, because a part of a string keeps the whole string in memory.
  defp clean(text, start) do
    if clean?(start) do
      if start == text, do: text, else: :binary.copy(start) <> @ellipsis
    else
      max = Limits.max_value_bytes()
      escaped = for <<char::utf8 <- start>>, into: "", do: escape(char)

      cond do
        byte_size(escaped) > max -> whole_escapes(start, max, "")
        start == text -> escaped
        true -> escaped <> @ellipsis
      end
    end
  end

  defp whole_escapes(<<char::utf8, rest::binary>>, max, escaped) do
    longer = escaped <> escape(char)
    if byte_size(longer) > max, do: escaped <> @ellipsis, else: whole_escapes(rest, max, longer)
  end

  # As Elixir escapes them in a string.
  defp escape(?\a), do: "\\a"
  defp escape(?\b), do: "\\b"
  defp escape(?\t), do: "\\t"
  defp escape(?\n), do: "\\n"
  defp escape(?\v), do: "\\v"
  defp escape(?\f), do: "\\f"
  defp escape(?\r), do: "\\r"
  defp escape(?\e), do: "\\e"
  defp escape(?\d), do: "\\d"
  defp escape(0), do: "\\0"
  defp escape(char) when char < 0x100 and is_control(char), do: "\\x" <> hex(char, 2)
  defp escape(char) when is_control(char), do: "\\u" <> hex(char, 4)
  defp escape(char), do: <<char::utf8>>

  defp hex(char, digits), do: char |> Integer.to_string(16) |> String.pad_leading(digits, "0")

  # Removes the start of a character that was cut off: at most three bytes.
  defp whole_characters(part), do: whole_characters(part, byte_size(part), 1)

  defp whole_characters(part, size, back) when back <= 3 and back <= size do
    case :binary.at(part, size - back) do
      byte when byte < 0x80 -> part
      byte when byte in 0x80..0xBF -> whole_characters(part, size, back + 1)
      byte when byte >= 0xF0 -> without(part, size, back, 4)
      byte when byte >= 0xE0 -> without(part, size, back, 3)
      _byte -> without(part, size, back, 2)
    end
  end

  defp whole_characters(part, _size, _back), do: part

  defp without(part, _size, width, width), do: part
  defp without(part, size, back, _width), do: binary_part(part, 0, size - back)
end
