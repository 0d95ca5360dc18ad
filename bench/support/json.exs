defmodule Bench.JSON do
  @moduledoc false
  # Reads the files that the benchmark has written. OTP has a reader from 27 on, Elixir from 1.18
  # on.

  @doc "Returns `{:ok, value}`, objects as maps with string keys, or `:error`."
  def decode(text) do
    {value, rest} = value(skip(text))
    if skip(rest) == "", do: {:ok, value}, else: :error
  catch
    :malformed -> :error
  end

  defp value("null" <> rest), do: {nil, rest}
  defp value("true" <> rest), do: {true, rest}
  defp value("false" <> rest), do: {false, rest}
  defp value("\"" <> rest), do: string(rest, [])

  defp value("[" <> rest) do
    case skip(rest) do
      "]" <> rest -> {[], rest}
      rest -> elements(rest, [])
    end
  end

  defp value("{" <> rest) do
    case skip(rest) do
      "}" <> rest -> {%{}, rest}
      rest -> members(rest, %{})
    end
  end

  defp value(text) do
    case Regex.run(~r/\A-?\d+(\.\d+)?([eE][+-]?\d+)?/, text) do
      [integer] ->
        {String.to_integer(integer), after_(text, integer)}

      [number, _fraction] ->
        {String.to_float(number), after_(text, number)}

      [number, "", exponent] ->
        {String.to_float(String.replace(number, exponent, ".0" <> exponent)),
         after_(text, number)}

      [number, _fraction, _exponent] ->
        {String.to_float(number), after_(text, number)}

      nil ->
        throw(:malformed)
    end
  end

  defp elements(text, before) do
    {value, rest} = value(text)

    case skip(rest) do
      "," <> rest -> elements(skip(rest), [value | before])
      "]" <> rest -> {Enum.reverse([value | before]), rest}
      _rest -> throw(:malformed)
    end
  end

  defp members("\"" <> text, before) do
    {key, rest} = string(text, [])
    ":" <> rest = or_malformed(skip(rest), ":")
    {value, rest} = value(skip(rest))
    object = Map.put(before, key, value)

    case skip(rest) do
      "," <> rest -> members(skip(rest), object)
      "}" <> rest -> {object, rest}
      _rest -> throw(:malformed)
    end
  end

  defp members(_text, _before), do: throw(:malformed)

  @escapes %{
    ?" => ?",
    ?\\ => ?\\,
    ?/ => ?/,
    ?b => ?\b,
    ?f => ?\f,
    ?n => ?\n,
    ?r => ?\r,
    ?t => ?\t
  }

  defp string("\"" <> rest, before) do
    {before |> Enum.reverse() |> List.to_string(), rest}
  end

  defp string(<<"\\u", digits::binary-size(4), rest::binary>>, before) do
    case Integer.parse(digits, 16) do
      {code, ""} -> string(rest, [code | before])
      _no_number -> throw(:malformed)
    end
  end

  defp string(<<"\\", escape, rest::binary>>, before) when is_map_key(@escapes, escape) do
    string(rest, [@escapes[escape] | before])
  end

  defp string(<<code::utf8, rest::binary>>, before) when code != ?\\,
    do: string(rest, [code | before])

  defp string(_text, _before), do: throw(:malformed)

  defp or_malformed(text, start) do
    if String.starts_with?(text, start), do: text, else: throw(:malformed)
  end

  defp after_(text, start),
    do: binary_part(text, byte_size(start), byte_size(text) - byte_size(start))

  defp skip(<<space, rest::binary>>) when space in [?\s, ?\t, ?\r, ?\n], do: skip(rest)
  defp skip(text), do: text
end
