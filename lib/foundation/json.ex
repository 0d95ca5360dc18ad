defmodule Foundation.JSON do
  @moduledoc false
  # Encodes what this library's own tasks and benchmarks write. OTP has `:json`
  # only from 27 on, Elixir has `JSON` only from 1.18 on, and a dependency for
  # three callers would be every user's dependency. There is no decoder.

  @type value ::
          nil
          | boolean
          | atom
          | String.t()
          | number
          | [value]
          | keyword(value)
          | %{optional(atom | String.t() | integer) => value}

  @doc """
  Returns `value` as JSON, as iodata on one line.

  A map becomes an object with its keys in term order, a non-empty keyword list one
  with its keys in the order given. Atoms become strings, but for `nil` and the
  booleans. A byte that is no valid UTF-8 becomes `U+FFFD`. Raises
  `ArgumentError` for a term that JSON has no form for.

      iex> IO.iodata_to_binary(Foundation.JSON.encode(%{"a" => [1, 2.5, nil]}))
      ~S({"a":[1,2.5,null]})

      iex> IO.iodata_to_binary(Foundation.JSON.encode(z: :ok, a: true))
      ~S({"z":"ok","a":true})
  """
  @spec encode(value) :: iodata
  def encode(nil), do: "null"
  def encode(true), do: "true"
  def encode(false), do: "false"
  def encode(value) when is_atom(value), do: string(Atom.to_string(value))
  def encode(value) when is_binary(value), do: string(value)
  def encode(value) when is_integer(value), do: Integer.to_string(value)
  def encode(value) when is_float(value), do: Float.to_string(value)
  def encode([]), do: "[]"

  def encode([{key, _value} | _rest] = pairs) when is_atom(key) and length(pairs) > 0 do
    object(pairs)
  end

  # length/1 fails the guard for an improper list.
  def encode([first | rest] = list) when length(list) > 0 do
    [?[, encode(first), Enum.map(rest, &[?,, encode(&1)]), ?]]
  end

  def encode(value) when is_map(value) and not is_struct(value) do
    value |> Map.to_list() |> Enum.sort() |> object()
  end

  def encode(value) do
    raise ArgumentError,
          "expected a value that JSON has a form for (nil, boolean, atom, string, number, " <>
            "list, keyword list or map), got: #{inspect(value)}"
  end

  defp object([]), do: "{}"

  defp object([first | rest]) do
    [?{, pair(first), Enum.map(rest, &[?,, pair(&1)]), ?}]
  end

  defp pair({key, value}), do: [key(key), ?:, encode(value)]

  defp key(key) when is_atom(key), do: string(Atom.to_string(key))
  defp key(key) when is_binary(key), do: string(key)
  defp key(key) when is_integer(key), do: string(Integer.to_string(key))

  defp key(key) do
    raise ArgumentError,
          "expected an object's key to be an atom, string or integer, got: " <> inspect(key)
  end

  defp string(binary), do: [?", escape(binary, binary, 0, 0), ?"]

  # Plain text is copied as sub-binaries: `skip` bytes are done, and the next `length` bytes need
  # no escape.
  defp escape(<<char::utf8, rest::binary>>, all, skip, length)
       when char >= 0x20 and char not in [?", ?\\] do
    escape(rest, all, skip, length + utf8_size(char))
  end

  defp escape(<<>>, all, skip, length), do: binary_part(all, skip, length)

  defp escape(<<byte, rest::binary>>, all, skip, length) do
    [binary_part(all, skip, length), escaped(byte), escape(rest, all, skip + length + 1, 0)]
  end

  defp escaped(?"), do: "\\\""
  defp escaped(?\\), do: "\\\\"
  defp escaped(?\n), do: "\\n"
  defp escaped(?\r), do: "\\r"
  defp escaped(?\t), do: "\\t"
  defp escaped(byte) when byte < 0x20, do: "\\u00" <> Base.encode16(<<byte>>)
  defp escaped(_no_utf8), do: "\uFFFD"

  defp utf8_size(char) when char < 0x80, do: 1
  defp utf8_size(char) when char < 0x800, do: 2
  defp utf8_size(char) when char < 0x10000, do: 3
  defp utf8_size(_char), do: 4
end
