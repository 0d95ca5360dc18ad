defmodule Foundation.Telemetry.Events.Batch do
  @moduledoc false
  # The measurements and metadata of a batch's event.

  @type event :: {at :: integer, measurements :: map, metadata :: map}

  @doc """
  Emits one batch, oldest event first, as `[:batched | name]`.
  """
  @spec execute([atom, ...], [event, ...]) :: :ok
  def execute(name, events) do
    {times, _measurements, _metadata} = unzip(events)

    metadata = %{
      events: for({_at, m, md} <- events, do: %{measurements: m, metadata: md}),
      first_at: Enum.min(times),
      last_at: Enum.max(times)
    }

    :telemetry.execute([:batched | name], measurements(events), metadata)
  end

  defp unzip(events) do
    {for({at, _, _} <- events, do: at), for({_, m, _} <- events, do: m),
     for({_, _, md} <- events, do: md)}
  end

  @doc """
  The count of a batch, and the sum, least and greatest of each measurement that is a number.
  """
  @spec measurements([event, ...]) :: %{
          count: pos_integer,
          sum: %{optional(term) => number},
          min: %{optional(term) => number},
          max: %{optional(term) => number}
        }
  def measurements(events) do
    empty = %{count: 0, sum: %{}, min: %{}, max: %{}}

    Enum.reduce(events, empty, fn {_at, measurements, _metadata}, batch ->
      Enum.reduce(measurements, %{batch | count: batch.count + 1}, &add/2)
    end)
  end

  defp add({key, value}, batch) when is_number(value) do
    %{
      batch
      | sum: Map.update(batch.sum, key, value, &sum(&1, value)),
        min: Map.update(batch.min, key, value, &min(&1, value)),
        max: Map.update(batch.max, key, value, &max(&1, value))
    }
  end

  defp add(_not_a_number, batch), do: batch

  # Floats have an end: their sum stops there, where `+` would raise in the batch processor.
  defp sum(a, b) do
    a + b
  rescue
    ArithmeticError -> if a > 0, do: 1.7976931348623157e308, else: -1.7976931348623157e308
  end
end
