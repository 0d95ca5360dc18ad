defmodule Foundation.EventLog.Reader do
  @moduledoc false
  # Reads of a log, in the caller.

  alias Foundation.EventLog.{Event, Owner, ReadError, Writer}
  alias Foundation.Native

  # Each call of the library has a bound of bytes too.
  @per_call 1_000

  # Above every version and position.
  @last 2 ** 63

  @type source :: String.t() | :all

  @doc "The version or position that is above all others."
  @spec last() :: pos_integer
  def last, do: @last

  @spec read(atom, source, pos_integer, non_neg_integer, :forward | :backward) :: [Event.t()]
  def read(log, source, from, limit, direction), do: read(log, source, from, limit, direction, [])

  defp read(_log, _source, nil, _limit, _direction, chunks), do: concat(chunks)
  defp read(_log, _source, _from, 0, _direction, chunks), do: concat(chunks)

  defp read(log, source, from, limit, direction, chunks) do
    {events, next} = chunk(log, source, from, @last, min(limit, @per_call), direction)
    read(log, source, next, limit - length(events), direction, [events | chunks])
  end

  defp concat([only]), do: only
  defp concat(chunks), do: chunks |> Enum.reverse() |> Enum.concat()

  @doc "Some events, forward, and where to go on; `nil` after the last."
  @spec chunk(atom, source, pos_integer, pos_integer, pos_integer, :forward | :backward) ::
          {[Event.t()], pos_integer | nil}
  def chunk(log, source, from, to, limit, direction \\ :forward) do
    case Native.event_log_read(log, source, from, to, limit, direction) do
      {:error, reason} -> failed!(log, reason)
      nil -> Writer.unknown!(log)
      {events, next} -> {Enum.map(events, &event/1), next}
    end
  end

  defp event({stream, version, position, at, {type, data, metadata}}) do
    %Event{
      stream: stream,
      version: version,
      position: position,
      type: type,
      data: data,
      metadata: metadata,
      at: at
    }
  end

  @doc "All events from `from` on, lazily, up to the last one at the start of the enumeration."
  @spec stream(atom, source, pos_integer, pos_integer) :: Enumerable.t()
  def stream(log, source, from, size) do
    Stream.resource(
      fn -> {from, newest(log, source)} end,
      fn
        {nil, to} ->
          {:halt, {nil, to}}

        {from, to} ->
          {events, next} = chunk(log, source, from, to, size)
          {events, {next, to}}
      end,
      fn _state -> :ok end
    )
  end

  @doc "The last version of a stream, or the last position of the log."
  @spec newest(atom, source) :: non_neg_integer
  def newest(log, :all), do: Native.event_log_position(log) || Writer.unknown!(log)
  def newest(log, stream), do: Native.event_log_version(log, stream) || Writer.unknown!(log)

  @spec snapshot(atom, String.t()) :: {:ok, non_neg_integer, term} | :error
  def snapshot(log, stream) do
    case Native.event_log_snapshot(log, stream) do
      :none -> :error
      {:error, reason} -> failed!(log, reason)
      nil -> Writer.unknown!(log)
      found -> found
    end
  end

  @spec streams(atom) :: Enumerable.t()
  def streams(log) do
    Stream.resource(
      fn -> 0 end,
      fn
        :done -> {:halt, :done}
        cursor -> Native.event_log_streams(log, cursor) || Writer.unknown!(log)
      end,
      fn _cursor -> :ok end
    )
  end

  defp failed!(log, reason) do
    with {:damaged, path, damage} <- reason, do: Owner.report_damage(log, path, damage)
    raise ReadError, log: log, reason: reason
  end
end
