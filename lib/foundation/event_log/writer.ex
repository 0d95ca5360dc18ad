defmodule Foundation.EventLog.Writer do
  @moduledoc false
  # Requests to the commit thread of a log, and its answers. Everything runs in the caller.

  alias Foundation.Native

  @type answer :: {:ok, non_neg_integer} | {:error, term}

  @doc "Encodes the events of an append. Raises `ArgumentError` for one that is none."
  @spec encode!(term) :: [binary]
  def encode!(events) when is_list(events), do: Enum.map(events, &encode_event!/1)

  def encode!(other) do
    raise ArgumentError, "expected the events to be a list, got: #{inspect(other)}"
  end

  defp encode_event!({type, data}), do: encode_event!({type, data, %{}})

  defp encode_event!({type, _data, metadata} = event)
       when (is_atom(type) or is_binary(type)) and is_map(metadata),
       do: :erlang.term_to_binary(event)

  defp encode_event!(other) do
    raise ArgumentError,
          "expected an event to be {type, data} or {type, data, metadata}, its type an atom or a " <>
            "string and its metadata a map, got: #{inspect(other)}"
  end

  @doc "Hands encoded events to the commit thread, whose answer comes with the reference."
  @spec send_append(atom, String.t(), Native.log_expected(), [binary]) :: reference
  def send_append(log, stream, expected, events) do
    reference = make_ref()
    at = System.system_time(:microsecond)

    log
    |> Native.event_log_append(stream, expected, at, events, reference)
    |> sent!(log)

    reference
  end

  @spec append(atom, String.t(), Native.log_expected(), [binary]) :: answer
  def append(log, stream, expected, events),
    do: await(log, send_append(log, stream, expected, events))

  @spec put_snapshot(atom, String.t(), non_neg_integer, term) :: answer
  def put_snapshot(log, stream, version, state) do
    state = :erlang.term_to_binary(state)
    request(log, &Native.event_log_put_snapshot(log, stream, version, state, &1))
  end

  @spec trim(atom, String.t(), pos_integer) :: answer
  def trim(log, stream, before),
    do: request(log, &Native.event_log_trim(log, stream, before, &1))

  @spec delete(atom, String.t(), Native.log_expected()) :: answer
  def delete(log, stream, expected),
    do: request(log, &Native.event_log_delete(log, stream, expected, &1))

  @spec forget(atom, binary) :: answer
  def forget(log, key), do: request(log, &Native.event_log_forget(log, key, &1))

  @doc """
  Makes the calling process the sender of a subscription. The log keeps `arguments`, which the
  process was started with.
  """
  @spec subscribe(atom, binary, String.t() | :all, :end | non_neg_integer, pid, term) :: answer
  def subscribe(log, key, stream, from, subscriber, arguments),
    do:
      request(log, &Native.event_log_subscribe(log, key, stream, from, subscriber, &1, arguments))

  defp request(log, send) do
    reference = make_ref()

    with :ok <- reference |> send.() |> sent!(log), do: await(log, reference)
  end

  defp sent!(:ok, _log), do: :ok
  defp sent!({:error, _not_sent} = error, _log), do: error

  defp sent!(:too_large, log) do
    raise ArgumentError,
          "expected an event to be at most as large as :max_event_bytes of the event log " <>
            "#{inspect(log)}, and an append to be below 1 GB"
  end

  defp sent!(nil, log), do: unknown!(log)

  # Every request is answered, also by a log that is being closed: there is nothing to time out.
  defp await(log, reference) do
    receive do
      {^reference, answer, commit} -> answered(log, answer, commit)
    end
  end

  @doc "Takes the message that answers a request."
  @spec answered(atom, answer, tuple | nil) :: answer
  def answered(log, answer, commit) do
    if commit, do: report(log, commit)
    if answer == {:error, :closed}, do: unknown!(log), else: answer
  end

  # One caller of each commit reports it, so that no process needs a mailbox for all of them.
  defp report(log, {nanoseconds, appends, events, bytes}) do
    :telemetry.execute(
      [:foundation, :event_log, :commit],
      %{
        duration: System.convert_time_unit(nanoseconds, :nanosecond, :native),
        appends: appends,
        events: events,
        bytes: bytes
      },
      %{log: log}
    )
  end

  @doc "Raises for a log that is not started."
  @spec unknown!(term) :: no_return
  def unknown!(log), do: raise(ArgumentError, "unknown event log: #{inspect(log)}")
end
