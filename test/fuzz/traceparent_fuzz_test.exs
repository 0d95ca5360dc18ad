defmodule Foundation.TraceparentFuzzTest do
  @moduledoc """
  Damaged `traceparent` headers. A regular expression with the standard's grammar judges them (W3C
  Trace Context, 3.2 and 4.3).
  """
  # Not async: counts the VM's atoms.
  use ExUnit.Case

  import Foundation.Fuzz

  alias Foundation.Telemetry.Span
  alias Foundation.Telemetry.Span.Context

  @fields "(?!0{32})(?<trace_id>[0-9a-f]{32})-(?!0{16})(?<span_id>[0-9a-f]{16})-(?<flags>[0-9a-f]{2})"
  @version_00 "\\A00-#{@fields}\\z"
  @later "\\A(?!00|ff)[0-9a-f]{2}-#{@fields}(?:-.*)?\\z"

  @reasons [
    :invalid_format,
    :invalid_version,
    :invalid_trace_id,
    :invalid_span_id,
    :invalid_flags
  ]

  @tag timeout: :infinity
  test "a header is accepted if and only if the grammar allows it" do
    grammar = [Regex.compile!(@version_00), Regex.compile!(@later, "s")]
    # Loads modules that only the first call needs.
    for _ <- 1..200, do: judge(grammar, header())

    each_input("traceparent", fn _input ->
      assert_no_atom_made(fn -> for _ <- 1..50, do: judge(grammar, header()) end)
    end)
  end

  test "a term that is not a binary is no header" do
    for term <- [nil, :atom, 1, ~c"00-", <<1::3>>, %{}, {"00"}, ["00"]] do
      assert Span.from_traceparent(term) == {:error, :invalid_format}
    end
  end

  defp judge(grammar, header) do
    trimmed = Regex.replace(~r/\A[ \t]+|[ \t]+\z/, header, "")
    expected = Enum.find_value(grammar, &Regex.named_captures(&1, trimmed))

    case Span.from_traceparent(header) do
      {:ok, context} ->
        if expected == nil, do: flunk("not a header, and taken: #{inspect(header)}")
        flags = rem(String.to_integer(expected["flags"], 16), 2)

        assert context == %{
                 trace_id: expected["trace_id"],
                 span_id: expected["span_id"],
                 trace_flags: flags
               }

        assert Context.validate!(context) == context
        assert Span.from_traceparent(Context.to_traceparent(context)) == {:ok, context}

      {:error, reason} ->
        if expected, do: flunk("a header, and refused (#{reason}): #{inspect(header)}")
        assert reason in @reasons
    end
  end

  defp header do
    Enum.reduce(1..(:rand.uniform(4) - 1)//1, valid(), fn _, header -> damaged(header) end)
  end

  defp valid do
    version = pick(["00", "00", "01", "cc", "fe", "ff", "0f", "f0"])
    tail = if version == "00" and not once_in(5), do: "", else: pick(["", "-", "-x", "-00-", "x"])
    "#{version}-#{hex(16)}-#{hex(8)}-#{hex(1)}#{tail}"
  end

  defp hex(bytes) do
    zeros = String.duplicate("0", 2 * bytes)

    case :rand.uniform(8) do
      1 -> zeros
      2 -> String.replace_suffix(zeros, "0", "1")
      3 -> String.replace_prefix(zeros, "0", "f")
      _ -> bytes |> :rand.bytes() |> Base.encode16(case: :lower)
    end
  end

  # Damage that a parser may overlook.
  defp damaged(header) do
    case :rand.uniform(6) do
      1 ->
        replace(
          header,
          pick(["A", "F", "g", "G", "/", ":", "`", "@", "-", "0", " ", "\n", <<0>>])
        )

      2 ->
        header <> pick(["\n", " ", "-", "\0", "0", "é", <<255>>])

      3 ->
        pick([" ", "\n", "0", "-"]) <> header

      4 ->
        String.upcase(header)

      _ ->
        damage(header)
    end
  end

  defp replace("", byte), do: byte

  defp replace(header, byte) do
    size = byte_size(header)
    at = :rand.uniform(size) - 1
    binary_part(header, 0, at) <> byte <> binary_part(header, at + 1, size - at - 1)
  end
end
