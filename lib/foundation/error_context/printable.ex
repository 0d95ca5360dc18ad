defmodule Foundation.ErrorContext.Printable do
  @moduledoc false
  # Puts the values of a context under their own keys in Logger metadata. A value stays as it is if
  # every formatter of Logger and OTP accepts it, else it becomes text. All have a bounded size. No
  # value may make this raise, because it runs where an application reports its errors.
  #
  # The formatters, as they were run: Logger.Formatter of Elixir 1.14, 1.18 and 1.20, and
  # logger_formatter of OTP 25, 27 and 29.
  #
  #   a value              Logger.Formatter                    logger_formatter
  #   atom, number, pid,   prints it                           prints it
  #   reference
  #   string               prints it raw, invalid or not       prints it by ~tp
  #   list                 leaves it out                       flattens it, which raises if it or a
  #                                                            list in it is improper, and prints
  #                                                            a charlist raw
  #   map, tuple, struct,  calls String.Chars if that is       prints it by ~tp
  #   function, port       implemented, else leaves it out;
  #                        from 1.18 on prints a port
  #   other bitstring      raises, by String.Chars             prints it by ~tp

  alias Foundation.ErrorContext
  alias Foundation.ErrorContext.{Limits, Text}

  import Foundation.ErrorContext.Text, only: [is_small: 1]

  # Logger's own keys, which a context must not forge.
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
    :ansi_color,
    # OTP's formatter takes a title from its value, and raises if that is not a map.
    :logger_formatter
  ]

  @reserved [:error_context, :error_context_cut, :error_context_frame | @logger_keys]

  # The limits of the fast path. This many keys, with names of at most 1,020 bytes (255 characters)
  # and values of at most 1,020, stay below 20 kB. That is below any total limit that can be
  # configured, except with absurd names.
  @plain_keys 8
  @plain_bytes 255

  @doc """
  Returns the keys of metadata that belong to Logger.
  """
  @spec logger_keys() :: [atom]
  def logger_keys, do: @logger_keys

  @doc """
  Returns whether `context` can be used unchanged, both beside itself and under `:error_context`.
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
  Returns whether `context` is plain and `metadata` has all of its keys, which are those of an
  earlier context.
  """
  @spec plain_in?(map, metadata :: map) :: boolean
  def plain_in?(context, _metadata) when map_size(context) > @plain_keys, do: false
  def plain_in?(context, metadata), do: pairs_in?(:maps.to_list(context), metadata)

  # The keys were checked when the earlier context was set, and so were values that are equal.
  defp pairs_in?([{key, value} | rest], metadata) do
    case metadata do
      %{^key => ^value} -> pairs_in?(rest, metadata)
      %{^key => _other} -> plain_value?(value) and pairs_in?(rest, metadata)
      _none -> false
    end
  end

  defp pairs_in?([], _metadata), do: true

  # One clause per key, which the compiler turns into one search. Structs are flattened by their
  # fields.
  for key <- [:__struct__ | @reserved], do: defp(plain_key?(unquote(key)), do: false)
  defp plain_key?(key), do: is_atom(key)

  @compile {:inline, plain_value?: 1}
  defp plain_value?(value) when is_small(value), do: true

  defp plain_value?(value) when is_atom(value), do: value !== nil

  defp plain_value?(value) when is_binary(value),
    do: byte_size(value) <= @plain_bytes and Text.clean?(value)

  defp plain_value?(value), do: is_float(value)

  @doc """
  Returns `context`, or its fields if it is a struct that implements `String.Chars`.

  Logger's formatter would print such a struct, which may raise or be long.
  """
  @spec shown(map) :: map
  def shown(%{__struct__: _module} = context) do
    if String.Chars.impl_for(context) == nil, do: context, else: Map.delete(context, :__struct__)
  end

  def shown(context), do: context

  @doc """
  Returns the printable form of `context`: keys that are atoms and not Logger's own, with values
  made printable and truncated, up to the total limit.
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

  # There is no room left. The other keys are counted without a look at their values, so a context
  # with a million keys costs no million inspections.
  defp flatten({_key, _value, rest}, flat, room, cut) when room <= 0 do
    flatten(:maps.next(rest), flat, room, cut + 1)
  end

  defp flatten({key, value, rest}, flat, room, cut) do
    case printable(key, value) do
      nil ->
        flatten(:maps.next(rest), flat, room, cut)

      printed ->
        left = room |> weigh(key) |> weigh(printed)

        if left >= 0 do
          flatten(:maps.next(rest), Map.put(flat, key, printed), left, cut)
        else
          flatten(:maps.next(rest), flat, 0, cut + 1)
        end
    end
  end

  # Counts the two bytes that a formatter puts around the value.
  defp weigh(room, term), do: Text.weigh(term, room) - 2

  defp printable(key, _value) when not is_atom(key) or key in @reserved, do: nil
  # Breadcrumbs have a form of their own, `ErrorContext.format_breadcrumbs/1`.
  defp printable(:breadcrumbs, value) when is_list(value), do: nil
  defp printable(:__struct__, _value), do: nil
  defp printable(_key, value), do: printable(value)

  @doc """
  Returns `value`, or text for it. Logger takes `nil` for "no value".
  """
  @spec printable(term) :: term
  def printable(value)
      when is_small(value) or is_atom(value) or is_float(value) or is_pid(value),
      do: value

  def printable(value) when is_binary(value) do
    if byte_size(value) <= Limits.max_value_bytes() and Text.clean?(value),
      do: value,
      else: Text.of(value)
  end

  def printable(value) do
    # Check the weight first: a value within the limit is small enough for the other checks.
    if Text.weigh(value, Limits.max_value_bytes()) >= 0 and taken?(value),
      do: value,
      else: Text.of(value)
  end

  defp taken?(value) when is_list(value) do
    Limits.nested() == :as_is and proper?(value) and not raw?(:lists.flatten(value))
  end

  defp taken?(value) when is_map(value) or is_tuple(value) do
    Limits.nested() == :as_is and prints_well?(value)
  end

  defp taken?(value) when is_bitstring(value), do: false
  # An integer, a reference, a function or a port.
  defp taken?(value), do: prints_well?(value)

  defp proper?([head | tail]), do: (not is_list(head) or proper?(head)) and proper?(tail)
  defp proper?(tail), do: tail == []

  # Returns whether OTP's formatter prints control characters of the list unescaped.
  defp raw?(flat) do
    :io_lib.printable_unicode_list(flat) and not Text.clean?(List.to_string(flat))
  end

  # Calls the application's implementation, if there is one. It may do anything.
  defp prints_well?(value) do
    case String.Chars.impl_for(value) do
      nil ->
        true

      implementation ->
        text = implementation.to_string(value)
        is_binary(text) and byte_size(text) <= Limits.max_value_bytes() and Text.clean?(text)
    end
  catch
    _kind, _reason -> false
  end
end
