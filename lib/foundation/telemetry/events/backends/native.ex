defmodule Foundation.Telemetry.Events.Backends.Native do
  @moduledoc false
  # Windows, batches and strategies in native memory (`native/foundation_core/src`).

  @behaviour Foundation.Telemetry.Events.Backend

  alias Foundation.Native
  alias Foundation.Telemetry.Events.Settings

  @impl true
  def exists?, do: Native.telemetry_started() == true

  @impl true
  def open(%Settings{} = s) do
    Native.telemetry_start(s.max_windows, s.max_pending, s.window, s.batch_size, s.batch_timeout)
  end

  @impl true
  def seal, do: Native.telemetry_seal()

  @impl true
  def close, do: Native.telemetry_stop()

  @impl true
  def admit(name, key, window), do: Native.telemetry_admit(name, key, window)

  @impl true
  def append(name, measurements, metadata),
    do: Native.telemetry_append(name, measurements, metadata)

  @impl true
  def count(name, outcome), do: Native.telemetry_count(name, outcome)

  @impl true
  def configure(name, own) do
    Native.telemetry_configure(name, own[:window], own[:batch_size], own[:batch_timeout])
  end

  @impl true
  def settings(name) do
    {window, batch_size, batch_timeout} = Native.telemetry_settings(name)
    %{window: window, batch_size: batch_size, batch_timeout: batch_timeout}
  end

  @impl true
  def totals(name), do: name |> Native.telemetry_totals() |> totals_of()

  @impl true
  def totals, do: walk(&Native.telemetry_events/1, &totals_of/1, 0)

  defp totals_of({emitted, suppressed, sampled_out, dropped, pending}) do
    %{
      emitted: emitted,
      suppressed: suppressed,
      sampled_out: sampled_out,
      dropped: dropped,
      pending: pending
    }
  end

  @impl true
  def windows, do: windows_of(Native.telemetry_windows())

  @impl true
  def windows(name), do: windows_of(Native.telemetry_own_windows(name))

  defp windows_of({windows, evicted}), do: %{windows: windows, evicted: evicted}

  @impl true
  def sweep do
    if Native.telemetry_sweep(), do: sweep(), else: :ok
  end

  @impl true
  def peek(name, limit) do
    events = peek(name, 0, limit)
    {events, length(events)}
  end

  # Ages become times here: the two clocks are read together, so that both sides of a batch
  # are on Erlang's.
  defp peek(name, offset, limit) do
    now = System.system_time()

    case Native.telemetry_peek(name, offset, limit) do
      {[], _behind} ->
        []

      {chunk, behind} ->
        events =
          for {age, measurements, metadata} <- chunk,
              do:
                {now - System.convert_time_unit(age, :nanosecond, :native), measurements,
                 metadata}

        got = length(chunk)

        if behind > 0 and got < limit,
          do: events ++ peek(name, offset + got, limit - got),
          else: events
    end
  end

  @impl true
  def ack(name, count) do
    Native.telemetry_ack(name, count)
    :ok
  end

  @impl true
  def configure_strategy(name, strategy) do
    with {:error, reason} <- Native.sampler_configure(name, strategy), do: :erlang.error(reason)
  end

  @impl true
  def sample?(name), do: Native.sampler_decide(name)

  @impl true
  def sampled(name), do: name |> Native.sampler_stats() |> sampled_of()

  @impl true
  def sampled, do: walk(&Native.sampler_events/1, &sampled_of/1, 0)

  defp sampled_of({sampled, sampled_out, strategy}),
    do: %{sampled: sampled, sampled_out: sampled_out, strategy: strategy}

  @impl true
  def reset_sampled, do: Native.sampler_reset()

  defp walk(next, convert, cursor) do
    {chunk, cursor} = next.(cursor)
    converted = for {name, answer} <- chunk, do: {name, convert.(answer)}
    if cursor == :done, do: converted, else: converted ++ walk(next, convert, cursor)
  end
end
