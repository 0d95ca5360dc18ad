defmodule Foundation.Resilience.ETS.Breaker do
  @moduledoc false
  # The circuit breaker of one key in the ETS engine, as `native/foundation_core/src/breaker.rs` has
  # it. Times are in nanoseconds.

  @ms 1_000_000
  # Slices of a time window.
  @slices 16

  # `window`: `{shape, outcomes, calls, failures, slow}`. The outcomes of a count window are a
  # queue, those of a time window slices `{index, calls, failures, slow}`, newest first.
  defstruct phase: :closed,
            generation: 0,
            window: nil,
            out: 0,
            good: 0,
            probes: %{},
            opened_in_row: 0,
            opened: 0,
            rejected: 0,
            until: 0,
            open: 0

  @type t :: %__MODULE__{}
  @type call :: %{generation: integer, started: integer, probe?: boolean}

  def idle_from(%{phase: :closed, out: 0} = breaker, _config, _now) do
    case breaker.window do
      nil -> 0
      {{:count, _size}, _outcomes, _calls, 0, 0} -> 0
      {{:count, _size}, _outcomes, _calls, _failures, _slow} -> :busy
      {{:time, slice}, slices, _calls, _failures, _slow} -> clean_from(slices, slice)
    end
  end

  def idle_from(_breaker, _config, _now), do: :busy

  defp clean_from(slices, slice) do
    case Enum.find(slices, fn {_index, _calls, failures, slow} -> failures + slow > 0 end) do
      nil -> 0
      {index, _calls, _failures, _slow} -> (index + @slices + 1) * slice
    end
  end

  @doc "Asks for a call: an admitted one or a refusal, the breaker and its changes of state."
  def ask(breaker, config, ref, now) do
    {answer, breaker, changed} = admit(breaker, config, ref, now)
    rejected = if match?({:ok, _call}, answer), do: 0, else: 1
    {answer, %{breaker | rejected: breaker.rejected + rejected}, changed}
  end

  defp admit(%{phase: :closed} = breaker, _config, _ref, now),
    do: {{:ok, call(breaker, now, false)}, %{breaker | out: breaker.out + 1}, []}

  defp admit(%{phase: :isolated} = breaker, _config, _ref, _now), do: {:isolated, breaker, []}

  defp admit(%{phase: :open, until: until} = breaker, _config, _ref, now) when now < until,
    do: {{:open, milliseconds(until - now)}, breaker, []}

  defp admit(%{phase: :open} = breaker, config, ref, now) do
    {breaker, changed} = enter(breaker, :half_open, now)
    probe(breaker, config, ref, now, changed)
  end

  defp admit(%{phase: :half_open} = breaker, config, ref, now),
    do: breaker |> expire(now) |> probe(config, ref, now, [])

  defp probe(breaker, config, ref, now, changed) do
    if map_size(breaker.probes) >= config.probes do
      {:probing, breaker, changed}
    else
      probes = Map.put(breaker.probes, ref, now + config.probe_timeout_ms * @ms)
      breaker = %{breaker | probes: probes}
      {{:ok, call(breaker, now, true)}, breaker, changed}
    end
  end

  defp call(breaker, now, probe?),
    do: %{generation: breaker.generation, started: now, probe?: probe?}

  @doc "Counts how a call ended: the breaker and its changes of state."
  def record(breaker, config, ref, %{probe?: true} = call, outcome, now) do
    breaker = expire(breaker, now)

    case {take_probe(breaker, ref), outcome, slow?(call, config, now)} do
      {nil, _outcome, _slow} -> {breaker, []}
      {breaker, :ignore, _slow} -> {breaker, []}
      {breaker, :ok, false} -> succeed(breaker, config, now)
      {breaker, _error_or_slow, _slow} -> open(breaker, config, now)
    end
  end

  def record(breaker, config, _ref, call, outcome, now) do
    breaker = %{breaker | out: breaker.out - 1}

    if call.generation != breaker.generation or outcome == :ignore do
      {breaker, []}
    else
      window = breaker |> fitted(config) |> add(outcome == :error, slow?(call, config, now), now)
      {_shape, _outcomes, calls, failures, slow} = window = recent(window, now)
      breaker = %{breaker | window: window}

      too_many =
        failures / calls >= config.failure_rate or
          (config.slow_ms != :infinity and slow / calls >= config.slow_rate)

      if calls >= config.min_calls and too_many,
        do: open(breaker, config, now),
        else: {breaker, []}
    end
  end

  @doc "Takes note of the death of a call's process."
  def lose(breaker, config, ref, %{probe?: true}, now) do
    breaker = expire(breaker, now)

    case take_probe(breaker, ref) do
      nil -> {breaker, []}
      breaker -> open(breaker, config, now)
    end
  end

  def lose(breaker, _config, _ref, _call, _now), do: {%{breaker | out: breaker.out - 1}, []}

  def isolate(%{phase: :isolated} = breaker, _now), do: {breaker, []}
  def isolate(breaker, now), do: enter(breaker, :isolated, now)

  def reset(%{phase: :closed} = breaker, _now),
    do: {%{breaker | window: nil, generation: breaker.generation + 1}, []}

  def reset(breaker, now), do: close(breaker, now)

  @doc "Returns the figures as the library's function does, and the breaker."
  def info(breaker, config, now) do
    breaker = expire(breaker, now)
    window = breaker |> fitted(config) |> recent(now)
    {_shape, _outcomes, calls, failures, slow} = window
    retry_after = if breaker.phase == :open, do: milliseconds(max(breaker.until - now, 0))

    {breaker.phase, calls, failures, slow, retry_after, breaker.rejected, breaker.opened,
     map_size(breaker.probes)}
  end

  defp succeed(breaker, config, now) do
    breaker = %{breaker | good: breaker.good + 1}
    if breaker.good >= config.probes, do: close(breaker, now), else: {breaker, []}
  end

  defp close(breaker, now), do: enter(%{breaker | window: nil, opened_in_row: 0}, :closed, now)

  defp open(breaker, config, now) do
    # Further doublings change nothing: the longest time is a day.
    doubled = min(config.open_ms * 2 ** min(breaker.opened_in_row, 40), config.max_open_ms)
    {random, _state} = :rand.uniform_s(:rand.seed_s(:exsss))
    factor = 1 + config.jitter * (2 * random - 1)
    open = min(round(doubled * factor * @ms), config.max_open_ms * @ms)

    enter(
      %{
        breaker
        | open: open,
          until: now + open,
          opened_in_row: breaker.opened_in_row + 1,
          opened: breaker.opened + 1
      },
      :open,
      now
    )
  end

  defp enter(breaker, phase, now) do
    {calls, failures, slow} = counts(breaker.window, now)

    breaker = %{
      breaker
      | phase: phase,
        generation: breaker.generation + 1,
        probes: %{},
        good: 0
    }

    {breaker, [{phase, calls, failures, slow, milliseconds(breaker.open)}]}
  end

  defp counts(nil, _now), do: {0, 0, 0}

  defp counts(window, now) do
    {_shape, _outcomes, calls, failures, slow} = recent(window, now)
    {calls, failures, slow}
  end

  defp slow?(_call, %{slow_ms: :infinity}, _now), do: false
  defp slow?(call, %{slow_ms: slow_ms}, now), do: now - call.started >= slow_ms * @ms

  defp expire(%{probes: probes} = breaker, _now) when probes == %{}, do: breaker

  defp expire(breaker, now) do
    probes = for {ref, expires} <- breaker.probes, now < expires, into: %{}, do: {ref, expires}
    %{breaker | probes: probes}
  end

  defp take_probe(breaker, ref) do
    case Map.pop(breaker.probes, ref) do
      {nil, _probes} -> nil
      {_expires, probes} -> %{breaker | probes: probes}
    end
  end

  ## Windows

  defp fitted(%{window: window}, config) do
    shape = shape(config.window)

    case window do
      {^shape, _outcomes, _calls, _failures, _slow} -> window
      {{:count, _size}, outcomes, _, _, _} -> refilled(shape, :queue.to_list(outcomes))
      _none_or_time -> empty(shape)
    end
  end

  defp shape({:count, size}), do: {:count, size}
  defp shape({:time, ms}), do: {:time, max(div(ms * @ms, @slices), 1)}

  defp empty({:count, _size} = shape), do: {shape, :queue.new(), 0, 0, 0}
  defp empty({:time, _slice} = shape), do: {shape, [], 0, 0, 0}

  # A longer or shorter count window keeps its newest calls.
  defp refilled({:count, _size} = shape, outcomes) do
    Enum.reduce(outcomes, empty(shape), fn {failed, slow}, window ->
      add(window, failed == 1, slow == 1, 0)
    end)
  end

  defp refilled(shape, _outcomes), do: empty(shape)

  defp add({{:count, size} = shape, outcomes, calls, failures, slow}, failed?, slow?, _now) do
    {failed_now, slow_now} = outcome = {number(failed?), number(slow?)}
    outcomes = :queue.in(outcome, outcomes)

    if calls == size do
      {{:value, {failed_then, slow_then}}, outcomes} = :queue.out(outcomes)
      {shape, outcomes, calls, failures + failed_now - failed_then, slow + slow_now - slow_then}
    else
      {shape, outcomes, calls + 1, failures + failed_now, slow + slow_now}
    end
  end

  defp add({{:time, slice} = shape, slices, calls, failures, slow}, failed?, slow?, now) do
    {failed, slow_now, index} = {number(failed?), number(slow?), Integer.floor_div(now, slice)}

    slices =
      case slices do
        [{last, c, f, s} | older] when last >= index ->
          [{last, c + 1, f + failed, s + slow_now} | older]

        slices ->
          [{index, 1, failed, slow_now} | slices]
      end

    {shape, slices, calls + 1, failures + failed, slow + slow_now}
  end

  defp recent({{:time, slice} = shape, slices, _calls, _failures, _slow}, now) do
    oldest = Integer.floor_div(now, slice) - @slices
    slices = Enum.take_while(slices, fn {index, _c, _f, _s} -> index >= oldest end)

    Enum.reduce(slices, {shape, slices, 0, 0, 0}, fn {_index, c, f, s},
                                                     {shape, all, cs, fs, ss} ->
      {shape, all, cs + c, fs + f, ss + s}
    end)
  end

  defp recent(window, _now), do: window

  defp number(true), do: 1
  defp number(false), do: 0

  defp milliseconds(nanoseconds), do: div(nanoseconds + @ms - 1, @ms)
end
