defmodule Foundation.Telemetry.Sampler.Strategy do
  @moduledoc false
  # The strategies as pure functions of a state, a time and random numbers: what the ETS engine
  # runs, and the model of the native one (`native/foundation_core/src/sampler.rs`).

  @second 1_000_000_000

  # A rate limit counts in slices. A sample counts against the limit for a second and the rest of
  # its slice. It never counts for less than a second, so no second exceeds the limit.
  @slice 4_000_000
  @slices div(@second, @slice)

  @type t :: Foundation.Telemetry.Sampler.strategy()

  @typedoc "Random numbers, and what the strategy remembers."
  @type state :: {:rand.state(), term}

  @largest 0xFFFF_FFFF
  # One event in 30 years: its interval fits into 64 bits as nanoseconds.
  @rarest 1.0e-9

  defguardp is_count(n) when is_integer(n) and n >= 0 and n <= @largest

  @doc """
  The strategy itself, or an `ArgumentError` that says what one looks like.
  """
  @spec validate!(term) :: t
  def validate!(strategy) when strategy in [:always, :never], do: strategy
  def validate!({:random, rate} = s) when is_number(rate) and rate >= 0 and rate <= 1, do: s
  def validate!({:rate_limited, limit} = s) when is_count(limit), do: s

  def validate!({:adaptive, target} = s)
      when is_number(target) and (target == 0 or (target >= @rarest and target <= @largest)),
      do: s

  def validate!({:reservoir, n} = s) when is_count(n) and n > 0, do: s

  def validate!(other) do
    raise ArgumentError,
          "expected a strategy to be :always, :never, {:random, rate} with a rate from 0 to 1, " <>
            "{:rate_limited, per_second} with 0 to #{@largest}, {:adaptive, per_second} with 0 or " <>
            "#{@rarest} to #{@largest}, or {:reservoir, size} with 1 to #{@largest}, " <>
            "got: #{inspect(other)}"
  end

  @doc """
  The initial state of a strategy.
  """
  @spec new(t) :: state
  # Seeded by `seed_s/1`: `:rand.seed/1` would write to the process dictionary.
  def new(strategy), do: {:rand.seed_s(:exsss), initial(strategy)}

  defp initial({:rate_limited, _limit}), do: {0, []}
  defp initial({:adaptive, _target}), do: nil
  defp initial({:reservoir, _n}), do: 0
  defp initial(_strategy), do: nil

  @doc """
  Decides one event at `now`, in nanoseconds of any clock that does not go back.
  """
  @spec decide(t, state, integer) :: {boolean, state}
  def decide(:always, state, _now), do: {true, state}
  def decide(:never, state, _now), do: {false, state}

  def decide({:random, rate}, {rand, memory}, _now) do
    {number, rand} = :rand.uniform_s(rand)
    {number < rate, {rand, memory}}
  end

  def decide({:rate_limited, limit}, {rand, {total, slices}}, now) do
    slice = Integer.floor_div(now, @slice)
    {total, slices} = forget(total, slices, slice - @slices)

    if total < limit,
      do: {true, {rand, {total + 1, count(slices, slice)}}},
      else: {false, {rand, {total, slices}}}
  end

  # A bucket that drips `target` times a second and holds a second's worth: the generic cell
  # rate algorithm (ITU-T I.371), which remembers one time only.
  def decide({:adaptive, target}, state, _now) when target == 0, do: {false, state}

  def decide({:adaptive, target}, {rand, arrival}, now) do
    interval = round(@second / target)
    next = max(arrival || now, now) + interval

    if next - now <= max(@second, interval),
      do: {true, {rand, next}},
      else: {false, {rand, arrival}}
  end

  # Algorithm R (Vitter, 1985): the k-th is taken with probability n/k.
  def decide({:reservoir, n}, {rand, seen}, _now) do
    k = seen + 1

    if k <= n do
      {true, {rand, k}}
    else
      {number, rand} = :rand.uniform_s(k, rand)
      {number <= n, {rand, k}}
    end
  end

  defp count([{slice, n} | slices], slice), do: [{slice, n + 1} | slices]
  defp count(slices, slice), do: [{slice, 1} | slices]

  # Newest first, so that what is to be forgotten is the tail.
  defp forget(total, slices, oldest) do
    {kept, gone} = Enum.split_while(slices, fn {slice, _n} -> slice >= oldest end)
    {total - Enum.reduce(gone, 0, fn {_slice, n}, sum -> sum + n end), kept}
  end
end
