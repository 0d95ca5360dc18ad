defmodule CrossReference.Tally do
  @moduledoc false
  # Counts the work of the agents outside of them, so that a kill loses no count. It has counters,
  # and a histogram of lookup times.

  import Bitwise

  @counts [
    :starts,
    :passes,
    :told,
    :missed,
    :registrations,
    :cleanups,
    :call_events,
    :batches,
    :batched,
    :span_starts,
    :span_stops,
    :spans_abandoned
  ]

  # Latencies below 32 native time units have a bucket each; above, every power of
  # two has 16, so that a percentile is off by 6 % at most.
  @linear 32
  @steps 16
  @buckets @linear + 35 * @steps

  @enforce_keys [:counts, :latencies]
  defstruct @enforce_keys

  @type t :: %__MODULE__{counts: :counters.counters_ref(), latencies: :counters.counters_ref()}
  @type count :: unquote(Enum.reduce(@counts, &{:|, [], [&1, &2]}))

  @spec new() :: t
  def new do
    %__MODULE__{
      counts: :counters.new(length(@counts), [:write_concurrency]),
      latencies: :counters.new(@buckets, [:write_concurrency])
    }
  end

  @spec add(t, count, integer) :: :ok
  def add(tally, count, n \\ 1)

  for {count, index} <- Enum.with_index(@counts, 1) do
    def add(%{counts: counts}, unquote(count), n), do: :counters.add(counts, unquote(index), n)
    def get(%{counts: counts}, unquote(count)), do: :counters.get(counts, unquote(index))
  end

  @doc "Counts one lookup that took `duration` native time units."
  @spec lookup(t, integer) :: :ok
  def lookup(%{latencies: latencies}, duration) do
    :counters.add(latencies, min(bucket(duration), @buckets - 1) + 1, 1)
  end

  defp bucket(duration) when duration < @linear, do: max(duration, 0)
  defp bucket(duration), do: bucket(duration, 0)
  defp bucket(duration, shift) when duration < @linear, do: shift * @steps + duration
  defp bucket(duration, shift), do: bucket(duration >>> 1, shift + 1)

  # The middle of what a bucket holds.
  defp duration(bucket) when bucket < @linear, do: bucket

  defp duration(bucket) do
    shift = div(bucket - @steps, @steps)
    ((bucket - shift * @steps) <<< shift) + (1 <<< (shift - 1))
  end

  @spec lookups(t) :: non_neg_integer
  def lookups(%{latencies: latencies}) do
    Enum.reduce(1..@buckets, 0, &(&2 + :counters.get(latencies, &1)))
  end

  @doc "Returns the duration in ns that `percent` of the lookups did not exceed."
  @spec percentile(t, number) :: non_neg_integer
  def percentile(%{latencies: latencies} = tally, percent) do
    rank = ceil(lookups(tally) * percent / 100)

    1..@buckets
    |> Enum.reduce_while(0, fn index, below ->
      case below + :counters.get(latencies, index) do
        below when below >= rank -> {:halt, {:found, duration(index - 1)}}
        below -> {:cont, below}
      end
    end)
    |> case do
      {:found, duration} -> System.convert_time_unit(duration, :native, :nanosecond)
      _no_lookups -> 0
    end
  end

  @doc "Counts the agent registry's telemetry events until `detach/1`."
  @spec attach(t) :: :ok
  def attach(%{counts: ref} = tally) do
    events = [[:foundation, :registry, :register], [:foundation, :registry, :cleanup]]
    :telemetry.attach_many({__MODULE__, ref}, events, &__MODULE__.handle_event/4, tally)
  end

  @spec detach(t) :: :ok
  def detach(%{counts: ref}), do: :telemetry.detach({__MODULE__, ref})

  @doc false
  def handle_event([:foundation, :registry, :register], %{count: n}, _metadata, tally) do
    add(tally, :registrations, n)
  end

  def handle_event([:foundation, :registry, :cleanup], %{count: n}, _metadata, tally) do
    add(tally, :cleanups, n)
  end
end
