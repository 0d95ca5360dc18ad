defmodule Foundation.Cache.Backends.ETS.Footprint do
  @moduledoc false
  # How many bytes an entry takes in the tables of the ETS engine.
  #
  # ETS shares large binaries. A slice keeps the whole binary that it is of, so slices are copied
  # before they are stored.

  # Two rows without the key and the value, with what a table needs for each: measured in
  # `test/foundation/cache/footprint_test.exs`.
  @overhead 272
  # A binary of more bytes is outside of the term, with this many bytes beside its own.
  @inline 64
  @header 24

  @doc "Returns the value without slices, and the bytes of an entry. O(size of both)."
  @spec pack(key :: term, value :: term) :: {term, pos_integer}
  def pack(key, value) do
    value = without_slices(value)
    # The key is in two rows.
    {value, @overhead + 2 * words(key) + words(value) + outside(value) + outside(key)}
  end

  defp words(term), do: :erts_debug.flat_size(term) * :erlang.system_info(:wordsize)

  defp without_slices(term), do: if(slices?(term), do: copied(term), else: term)

  defp slices?(term) when is_binary(term), do: slice?(term)
  defp slices?([head | tail]), do: slices?(head) or slices?(tail)
  defp slices?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> slices?()
  defp slices?(map) when is_map(map), do: map |> :maps.to_list() |> slices?()
  defp slices?(_other), do: false

  defp slice?(term),
    do: byte_size(term) > @inline and :binary.referenced_byte_size(term) > byte_size(term)

  defp copied(term) when is_binary(term),
    do: if(slice?(term), do: :binary.copy(term), else: term)

  defp copied([head | tail]), do: [copied(head) | copied(tail)]

  defp copied(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> copied() |> List.to_tuple()

  defp copied(map) when is_map(map), do: map |> :maps.to_list() |> copied() |> :maps.from_list()
  defp copied(other), do: other

  defp outside(term) when is_bitstring(term),
    do: if(byte_size(term) > @inline, do: byte_size(term) + @header, else: 0)

  defp outside([head | tail]), do: outside(head) + outside(tail)
  defp outside(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> outside()
  defp outside(map) when is_map(map), do: map |> :maps.to_list() |> outside()
  defp outside(_other), do: 0
end
