defmodule Foundation.Telemetry.Span.Context do
  @moduledoc false
  # Where a span is, as it is passed on: to another process, or in a `traceparent` header
  # (W3C Trace Context, https://www.w3.org/TR/trace-context/#traceparent-header).

  import Bitwise

  @type t :: %{
          required(:trace_id) => String.t(),
          required(:span_id) => String.t(),
          required(:trace_flags) => 0..255,
          optional(:tracestate) => String.t()
        }

  @no_trace String.duplicate("0", 32)
  @no_span String.duplicate("0", 16)

  # `sampled`. The standard reserves the other bits of version 00, and tells senders to clear them.
  @known_flags 0b1

  # The length that the standard has every system pass on.
  @tracestate_max 512

  @doc "The header of a context, in version 00."
  @spec to_traceparent(t) :: String.t()
  def to_traceparent(%{trace_id: trace_id, span_id: span_id, trace_flags: flags}) do
    "00-#{trace_id}-#{span_id}-#{Base.encode16(<<flags>>, case: :lower)}"
  end

  @doc "The context of a header. HTTP allows spaces and tabs around it."
  @spec from_traceparent(term) :: {:ok, t} | {:error, atom}
  def from_traceparent(<<space, header::binary>>) when space in [?\s, ?\t],
    do: from_traceparent(header)

  # A later version may have more behind a dash; what is before it means what it does in 00.
  def from_traceparent(
        <<version::binary-2, ?-, trace_id::binary-32, ?-, span_id::binary-16, ?-, flags::binary-2,
          tail::binary>>
      ) do
    tail = without_spaces(tail)

    with :ok <- version(version, tail),
         :ok <- id(trace_id, @no_trace, :invalid_trace_id),
         :ok <- id(span_id, @no_span, :invalid_span_id),
         :ok <- hex(flags, :invalid_flags) do
      <<flags>> = Base.decode16!(flags, case: :lower)
      {:ok, %{trace_id: trace_id, span_id: span_id, trace_flags: flags &&& @known_flags}}
    end
  end

  def from_traceparent(_header), do: {:error, :invalid_format}

  defp without_spaces(""), do: ""

  defp without_spaces(tail) do
    last = byte_size(tail) - 1

    if :binary.at(tail, last) in [?\s, ?\t],
      do: tail |> binary_part(0, last) |> without_spaces(),
      else: tail
  end

  defp version("00", ""), do: :ok
  defp version("00", _tail), do: {:error, :invalid_format}
  defp version("ff", _tail), do: {:error, :invalid_version}
  defp version(version, ""), do: hex(version, :invalid_version)
  defp version(version, <<?-, _rest::binary>>), do: hex(version, :invalid_version)
  defp version(_version, _tail), do: {:error, :invalid_format}

  @doc "A context as it may be handed in, or an `ArgumentError`."
  @spec validate!(term) :: t
  def validate!(%{trace_id: trace_id, span_id: span_id} = context) do
    flags = Map.get(context, :trace_flags, 1)

    with true <- is_binary(trace_id) and byte_size(trace_id) == 32,
         true <- is_binary(span_id) and byte_size(span_id) == 16,
         :ok <- id(trace_id, @no_trace, :invalid_trace_id),
         :ok <- id(span_id, @no_span, :invalid_span_id),
         true <- flags in 0..255 do
      put_tracestate(
        %{trace_id: trace_id, span_id: span_id, trace_flags: flags &&& @known_flags},
        Map.get(context, :tracestate)
      )
    else
      _wrong -> refuse!(context)
    end
  end

  def validate!(other), do: refuse!(other)

  @doc """
  Puts a `tracestate` into a context, if there is one to pass on.

  It is passed on as it is. A longer one than the standard demands loses members from its end. One
  that no header may have is left out, as the standard says.
  """
  @spec put_tracestate(map, term) :: map
  def put_tracestate(context, nil), do: context

  def put_tracestate(context, tracestate) when is_binary(tracestate) do
    kept = shorten(tracestate)
    if kept != "" and printable?(kept), do: Map.put(context, :tracestate, kept), else: context
  end

  def put_tracestate(_context, other) do
    raise ArgumentError, "expected :tracestate to be a string or nil, got: #{inspect(other)}"
  end

  defp shorten(tracestate) when byte_size(tracestate) <= @tracestate_max, do: tracestate

  # The last comma within the bound, or just behind it, ends the last whole member.
  defp shorten(<<kept::binary-size(@tracestate_max), ?,, _rest::binary>>), do: kept

  defp shorten(<<start::binary-size(@tracestate_max), _rest::binary>>) do
    case :binary.matches(start, ",") do
      [] -> ""
      commas -> binary_part(start, 0, commas |> List.last() |> elem(0))
    end
  end

  defp printable?(<<c, rest::binary>>) when c in ?\s..?~ or c == ?\t, do: printable?(rest)
  defp printable?(rest), do: rest == ""

  @spec refuse!(term) :: no_return
  defp refuse!(other) do
    raise ArgumentError,
          "expected a context to be a map with a :trace_id of 32 and a :span_id of 16 " <>
            "lower-case hex digits, neither all zero, got: #{inspect(other)}"
  end

  defp id(none, none, reason), do: {:error, reason}
  defp id(id, _none, reason), do: hex(id, reason)

  defp hex(digits, reason), do: if(hex?(digits), do: :ok, else: {:error, reason})

  defp hex?(<<c, rest::binary>>) when c in ?0..?9 or c in ?a..?f, do: hex?(rest)
  defp hex?(rest), do: rest == ""
end
