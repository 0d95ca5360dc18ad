defmodule Foundation.Resilience.ETS.Limiter do
  @moduledoc false
  # The rate limiter of one key in the ETS engine, as `native/foundation_core/src/limiter.rs` has
  # it. Times are in nanoseconds.
  #
  # A lane is the use of one limit. For a window it has slices `{index, taken}`, oldest first. For a
  # bucket it is the time at which the bucket is full. Its unit is a nanosecond divided by the
  # limit.

  @ms 1_000_000
  @slices 256
  # A settled cost counts as this at most.
  @most 4_294_967_295

  defstruct lanes: nil, limits: nil, last: nil, taken: 0, rejected: 0

  @type t :: %__MODULE__{}

  def idle_from(%{lanes: nil}, _config, _now), do: 0

  def idle_from(limiter, _config, now) do
    limiter.lanes
    |> Enum.zip(limits(limiter.limits))
    |> Enum.map(fn {lane, limit} -> empty_from(lane, limit, now) end)
    |> Enum.max()
  end

  defp limits({_algorithm, limits}), do: limits

  @doc "Takes costs by the names of limits: `{:ok, slot}` or a refusal, and the limiter."
  def take(limiter, config, cost, wait, now) do
    limiter = fitted(limiter, config)

    with {:ok, costs} <- costs(cost, config),
         {:ok, slot} <- slot(limiter, costs, wait, now) do
      lanes = each(limiter, costs, fn lane, limit, cost -> book(lane, limit, cost, slot, now) end)

      {{:ok, slot}, %{limiter | lanes: lanes, last: slot, taken: limiter.taken + 1}}
    else
      {:bad_cost, _names} = refusal -> {refusal, limiter}
      refusal -> {refusal, %{limiter | rejected: limiter.rejected + 1}}
    end
  end

  def settle(limiter, config, slot, reserved, actual, now) do
    limiter = fitted(limiter, config)

    case {costs(reserved, config), costs(actual, config)} do
      {_reserved, {:bad_cost, _names} = refusal} ->
        {refusal, limiter}

      {{:ok, reserved}, {:ok, actual}} ->
        changes = Enum.zip_with(actual, reserved, &(min(&1, @most) - &2))

        lanes =
          each(limiter, changes, fn lane, limit, change ->
            correct(lane, limit, slot, change, now)
          end)

        {:ok, %{limiter | lanes: lanes}}

      # Of limits that are others now, nothing is settled.
      {{:bad_cost, _names}, {:ok, _actual}} ->
        {:ok, limiter}
    end
  end

  @doc "Returns the figures as the library's function does."
  def info(limiter, config, now) do
    limiter = fitted(limiter, config)

    limits =
      [limiter.lanes, config.limits]
      |> Enum.zip_with(fn [lane, {name, limit, per_ms} = whole] ->
        {used, reset} = usage(lane, whole, now)
        {name, limit, per_ms, used, max(limit - used, 0), milliseconds(reset)}
      end)

    {limits, limiter.taken, limiter.rejected}
  end

  # New settings keep the use of the limits that have not changed.
  defp fitted(%{limits: limits} = limiter, %{algorithm: algorithm, limits: wanted})
       when limits == {algorithm, wanted},
       do: limiter

  defp fitted(limiter, %{algorithm: algorithm, limits: wanted}) do
    lanes =
      case limiter.limits do
        {^algorithm, old} when length(old) == length(wanted) ->
          Enum.zip_with([limiter.lanes, old, wanted], &kept/1)

        _none_or_other ->
          for _limit <- wanted, do: if(algorithm == :token_bucket, do: nil, else: [])
      end

    %{limiter | lanes: lanes, limits: {algorithm, wanted}}
  end

  defp kept([lane, {name, _old, per}, {name, _new, per}]) when is_list(lane), do: lane

  defp kept([lane, {name, old, _old_per}, {name, new, _per}]) when is_integer(lane),
    do: div(lane * new, old)

  defp kept([lane, _old, _new]) when is_list(lane), do: []
  defp kept([_lane, _old, _new]), do: nil

  defp costs(cost, %{limits: [_only]}) when is_integer(cost) and cost >= 0, do: {:ok, [cost]}

  defp costs(cost, %{limits: limits}) do
    names = for {name, _limit, _per} <- limits, do: name

    valid? =
      Keyword.keyword?(cost) and
        Enum.all?(cost, fn {name, n} -> name in names and is_integer(n) and n >= 0 end)

    if valid?,
      # Of a limit that is named twice, the last counts.
      do: {:ok, for(name <- names, do: cost |> Enum.reverse() |> Keyword.get(name, 0))},
      else: {:bad_cost, names}
  end

  defp slot(limiter, costs, wait, now) do
    limits = limits(limiter.limits)

    if Enum.any?(Enum.zip(costs, limits), fn {cost, {_name, limit, _per}} -> cost > limit end) do
      :exceeds_limit
    else
      from = if limiter.last, do: max(now, limiter.last), else: now

      slot =
        Enum.zip_reduce([limiter.lanes, limits, costs], from, fn [lane, limit, cost], slot ->
          if cost == 0, do: slot, else: earliest(lane, limit, cost, slot)
        end)

      if wait == :infinity or slot - now <= wait * @ms,
        do: {:ok, slot},
        else: {:limited, milliseconds(slot - now)}
    end
  end

  defp each(limiter, costs, fun),
    do:
      Enum.zip_with([limiter.lanes, limits(limiter.limits), costs], fn [a, b, c] ->
        fun.(a, b, c)
      end)

  # The first time from `slot` on at which there is room.
  defp earliest(slices, {_name, limit, _per} = whole, cost, slot) when is_list(slices) do
    slices = Enum.drop_while(slices, fn {index, _taken} -> leaves(index, whole) <= slot end)
    live = slices |> Enum.map(&elem(&1, 1)) |> Enum.sum()

    Enum.reduce_while(slices, {slot, live}, fn {index, taken}, {slot, live} ->
      if live + cost <= limit,
        do: {:halt, {slot, live}},
        else: {:cont, {max(slot, leaves(index, whole)), live - taken}}
    end)
    |> elem(0)
  end

  defp earliest(full, {_name, limit, per_ms}, cost, slot) do
    per = per_ms * @ms
    after_it = max(full || slot * limit, slot * limit) + cost * per
    max(slot, ceil_div(after_it - per * limit, limit))
  end

  defp book(slices, whole, cost, slot, now) when is_list(slices) do
    slices = Enum.drop_while(slices, fn {index, _taken} -> leaves(index, whole) <= now end)
    if cost == 0, do: slices, else: append(slices, Integer.floor_div(slot, slice(whole)), cost)
  end

  defp book(full, {_name, limit, per_ms}, cost, slot, _now),
    do: max(full || slot * limit, slot * limit) + cost * per_ms * @ms

  defp append(slices, index, cost) do
    case List.last(slices) do
      {last, taken} when last >= index -> List.replace_at(slices, -1, {last, taken + cost})
      _older_or_none -> slices ++ [{index, cost}]
    end
  end

  defp correct(slices, whole, slot, change, now) when is_list(slices) do
    index = Integer.floor_div(slot, slice(whole))

    cond do
      leaves(index, whole) <= now ->
        slices

      List.keymember?(slices, index, 0) ->
        {_index, taken} = List.keyfind(slices, index, 0)
        List.keyreplace(slices, index, 0, {index, max(taken + change, 0)})

      change > 0 ->
        {older, newer} = Enum.split_while(slices, fn {other, _taken} -> other < index end)
        older ++ [{index, change} | newer]

      true ->
        slices
    end
  end

  defp correct(full, {_name, limit, per_ms}, slot, change, now) do
    cond do
      slot + per_ms * @ms <= now -> full
      change < 0 -> (full || now * limit) + change * per_ms * @ms
      true -> max(full || now * limit, now * limit) + change * per_ms * @ms
    end
  end

  defp usage(slices, whole, now) when is_list(slices) do
    live = Enum.drop_while(slices, fn {index, _taken} -> leaves(index, whole) <= now end)
    used = live |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    {used, max(empty_from(live, whole, now) - now, 0)}
  end

  defp usage(full, {_name, limit, per_ms} = whole, now) do
    used = ceil_div(max((full || now * limit) - now * limit, 0), per_ms * @ms)
    {used, max(empty_from(full, whole, now) - now, 0)}
  end

  # From when on nothing is used.
  defp empty_from(slices, whole, now) when is_list(slices) do
    case slices |> Enum.reverse() |> Enum.find(fn {_index, taken} -> taken > 0 end) do
      nil -> now
      {index, _taken} -> leaves(index, whole)
    end
  end

  defp empty_from(nil, _whole, now), do: now
  defp empty_from(full, {_name, limit, _per}, _now), do: ceil_div(full, limit)

  # When all that was taken in a slice is older than the window.
  defp leaves(index, {_name, _limit, per_ms} = whole),
    do: (index + 1) * slice(whole) + per_ms * @ms

  defp slice({_name, _limit, per_ms}), do: div(per_ms * @ms, @slices)

  # The monotonic clock of the VM is negative.
  defp ceil_div(number, by), do: -Integer.floor_div(-number, by)

  defp milliseconds(nanoseconds), do: ceil_div(nanoseconds, @ms)
end
