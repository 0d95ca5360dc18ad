defmodule Foundation.ErrorContext.Printable do
  @moduledoc false
  # What of a context stands beside it in Logger metadata: a map of atoms to atoms, numbers
  # and valid strings, which every formatter can print, and of bounded size. No value may
  # make this raise: it runs where an application reports its errors.

  alias Foundation.ErrorContext
  alias Foundation.ErrorContext.Limits

  # Logger's own, which a context must not forge.
  @logger_keys [
    :time,
    :pid,
    :gl,
    :mfa,
    :file,
    :line,
    :domain,
    :report_cb,
    :crash_reason,
    :initial_call,
    :registered_name,
    :application,
    :module,
    :function,
    :error_logger,
    :ansi_color
  ]

  @reserved [:error_context, :error_context_cut, :error_context_frame | @logger_keys]

  # Of the fast path: so many keys with names of at most 1,020 bytes (255 characters) and
  # values of at most 1,020 stay below any limit of all together that may be configured
  # except for absurd names, and always below 20 kB.
  @plain_keys 8
  @plain_bytes 255

  # A term that weighs more is not inspected as a whole, but with so many items of each of its
  # collections (a list in a list in a list … has 2^10 then) and bytes of each string.
  @inspected_weight 512
  @inspected_items 10
  @inspected_string 256

  @ellipsis "…"

  # What the VM keeps in one word, with room: a comparison with more is slow, too.
  defguardp is_small(value)
            when is_integer(value) and value < 0x400000000000000 and value > -0x400000000000000

  @doc """
  The keys of metadata that are Logger's.
  """
  @spec logger_keys() :: [atom]
  def logger_keys, do: @logger_keys

  @doc """
  Whether `context` is printable as it is: then it is its own flattened form.
  """
  @spec plain?(map) :: boolean
  def plain?(context) when map_size(context) > @plain_keys, do: false
  def plain?(context), do: plain_pairs?(:maps.to_list(context))

  defp plain_pairs?([{key, value} | rest])
       when is_small(value) or (is_atom(value) and value !== nil) do
    plain_key?(key) and plain_pairs?(rest)
  end

  defp plain_pairs?([{key, value} | rest]) do
    plain_key?(key) and plain_value?(value) and plain_pairs?(rest)
  end

  defp plain_pairs?([]), do: true

  @doc """
  Whether `context` is plain, and all of its keys, which are those of an earlier context, stand in
  `metadata`.
  """
  @spec plain_in?(map, metadata :: map) :: boolean
  def plain_in?(context, _metadata) when map_size(context) > @plain_keys, do: false
  def plain_in?(context, metadata), do: pairs_in?(:maps.to_list(context), metadata)

  # The keys have been looked at, when the earlier context was set.
  defp pairs_in?([{key, value} | rest], metadata) when is_map_key(metadata, key) do
    plain_value?(value) and pairs_in?(rest, metadata)
  end

  defp pairs_in?(rest, _metadata), do: rest == []

  # A clause each, which the compiler makes one search of. Structs are flattened by their fields.
  for key <- [:__struct__ | @reserved], do: defp(plain_key?(unquote(key)), do: false)
  defp plain_key?(key), do: is_atom(key)

  @compile {:inline, plain_value?: 1}
  defp plain_value?(value) when is_small(value), do: true
  defp plain_value?(value) when is_atom(value), do: value !== nil

  defp plain_value?(value) when is_binary(value),
    do: byte_size(value) <= @plain_bytes and utf8?(value)

  defp plain_value?(value), do: is_float(value)

  # `String.valid?/1` is written in Elixir, and costs several times as much.
  if Code.ensure_loaded?(:unicode) and function_exported?(:unicode, :bin_is_7bit, 1) do
    defp utf8?(value), do: :unicode.bin_is_7bit(value) or String.valid?(value)
  else
    defp utf8?(value), do: is_binary(:unicode.characters_to_binary(value))
  end

  @doc """
  The printable form of `context`: keys that are atoms and not Logger's own, with values
  made printable and cut, up to the limit of all of them together.
  """
  @spec flatten(map) :: map
  def flatten(%ErrorContext{} = context) do
    context
    |> Map.take([:operation_id, :correlation_id])
    |> Map.merge(context.metadata)
    |> flatten_pairs()
  end

  def flatten(context), do: flatten_pairs(context)

  defp flatten_pairs(context) do
    context |> :maps.iterator() |> :maps.next() |> flatten(%{}, Limits.max_printed_bytes(), 0)
  end

  defp flatten(:none, flat, _room, 0), do: flat
  defp flatten(:none, flat, _room, cut), do: Map.put(flat, :error_context_cut, cut)

  # No room for anything: the others are counted, not looked at, so that a context of a
  # million keys costs no million inspections.
  defp flatten({_key, _value, rest}, flat, room, cut) when room <= 0 do
    flatten(:maps.next(rest), flat, room, cut + 1)
  end

  defp flatten({key, value, rest}, flat, room, cut) do
    case printable(key, value) do
      nil ->
        flatten(:maps.next(rest), flat, room, cut)

      printed ->
        room = room - size(key) - size(printed)

        if room >= 0 do
          flatten(:maps.next(rest), Map.put(flat, key, printed), room, cut)
        else
          flatten(:maps.next(rest), flat, 0, cut + 1)
        end
    end
  end

  defp printable(key, _value) when not is_atom(key) or key in @reserved, do: nil
  # They have a form of their own, `ErrorContext.format_breadcrumbs/1`, and would be
  # inspected anew at each set.
  defp printable(:breadcrumbs, value) when is_list(value), do: nil
  defp printable(:__struct__, _value), do: nil
  defp printable(_key, value), do: printable(value)

  @doc """
  A form of `value` that every formatter prints: itself if it is an atom, a number or a
  valid string of modest size, else a string. `nil` for `nil`, which Logger takes for "no value".
  """
  @spec printable(term) :: atom | number | String.t() | nil
  def printable(value) when is_atom(value) or is_float(value) or is_small(value), do: value
  def printable(value) when is_integer(value), do: cut(integer(value))

  def printable(value) when is_binary(value) do
    max = Limits.max_value_bytes()

    if byte_size(value) <= max do
      if String.valid?(value), do: value, else: inspected(value)
    else
      # A copy: a part of a string keeps all of it in memory.
      start = value |> binary_part(0, max) |> whole_characters() |> :binary.copy()
      if String.valid?(start), do: start <> @ellipsis, else: inspected(value)
    end
  end

  def printable(%module{} = value) do
    case String.Chars.impl_for(value) do
      nil -> inspected(value)
      implementation -> cut(implementation.to_string(value))
    end
  catch
    # A protocol's implementation is the application's: whatever it does, the context is set.
    _kind, _reason -> "%#{inspect(module)}{#{@ellipsis}}"
  end

  def printable(value), do: inspected(value)

  defp inspected(value) do
    if weigh(value, @inspected_weight) >= 0 do
      value |> inspect(limit: :infinity, printable_limit: :infinity) |> cut()
    else
      cut_short(value)
    end
  catch
    # As above: an implementation of Inspect somewhere in the value.
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

  # What is left of `room` after `value`; negative as soon as there is none left.
  defp weigh(_value, room) when room < 0, do: room
  defp weigh([head | tail], room), do: weigh(tail, weigh(head, room - 1))

  defp weigh(value, room) when is_tuple(value) do
    room = room - 1 - tuple_size(value)
    if room < 0, do: room, else: weigh(Tuple.to_list(value), room)
  end

  defp weigh(value, room) when is_map(value) do
    room = room - 1 - map_size(value)
    if room < 0, do: room, else: weigh(:maps.to_list(value), room)
  end

  defp weigh(value, room) when is_bitstring(value), do: room - 1 - div(byte_size(value), 8)
  defp weigh(value, room) when is_small(value), do: room - 1

  defp weigh(value, room) when is_integer(value),
    do: weigh(:binary.encode_unsigned(abs(value)), room)

  defp weigh(_value, room), do: room - 1

  # Decimal digits of a large integer cost the square of its length.
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
      byte_size(text) <= max -> text
      true -> (text |> binary_part(0, max) |> whole_characters() |> :binary.copy()) <> @ellipsis
    end
  end

  # Without the start of a character that was cut: at most three bytes.
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

  # With what a formatter puts around it.
  defp size(term) when is_atom(term), do: byte_size(Atom.to_string(term)) + 2
  defp size(term) when is_binary(term), do: byte_size(term) + 2
  defp size(_number), do: 24
end
