defmodule CrossReference.Events do
  @moduledoc false
  # The events of the agents, and the check that all of them are accounted for.
  #
  # Each call that an agent records is emitted twice: batched, and deduplicated by the call. When
  # an agent was killed, its successor records its calls again. Each of them is then a repeat
  # within its window. The number of deduplicated events is therefore the number of calls,
  # whatever was killed.

  alias CrossReference.{Await, Tally}
  alias Foundation.Telemetry.SampledEvents

  @call [:cross_reference, :call]
  @recorded [:cross_reference, :recorded]
  @span_events for event <- [:start, :stop, :abandoned], do: [:foundation, :span, event]

  # Longer than any run, and more than there are calls.
  @window_ms 3_600_000
  @settings [max_windows: 2_000_000, max_pending: 1_000_000]

  # The counters of each event.
  @outcomes [:offered, :emitted, :suppressed, :sampled_out, :dropped, :pending, :evicted]

  @doc "The bounds that a run needs, for the configuration before the start of the application."
  @spec settings() :: keyword
  def settings, do: @settings

  @doc "Counts in `tally` what comes out; gives what `report/4` needs. `detach/1` ends it."
  @spec attach(Tally.t()) :: %{call: map, recorded: map}
  def attach(tally) do
    :ok = SampledEvents.configure_event(@call, window: @window_ms)
    events = [@call, [:batched | @recorded] | @span_events]
    :ok = :telemetry.attach_many(id(tally), events, &__MODULE__.handle_event/4, tally)
    stats()
  end

  @spec detach(Tally.t()) :: :ok
  def detach(tally), do: :telemetry.detach(id(tally))

  @doc "Emits one call that the agent of `callee` has recorded in a run."
  @spec record(integer, module, {module, atom, arity, pos_integer}) :: :ok
  def record(run, callee, {caller, function, arity, site}) do
    metadata = %{caller: caller, callee: callee, function: function, arity: arity}
    key = {run, callee, caller, function, arity, site}
    :ok = SampledEvents.emit_batched(@recorded, %{site: site}, metadata)
    SampledEvents.emit_event(@call, %{count: 1}, metadata, dedup_key: key)
  end

  @doc """
  Returns the outcomes of the events since `before`, after all agents have stopped.

  `fits` says whether the counters add up to the `calls`, of which `victims` agents may each have
  left one half emitted.
  """
  @spec report(Tally.t(), map, non_neg_integer, non_neg_integer) :: map
  def report(tally, before, calls, victims) do
    :ok = SampledEvents.flush(@recorded)
    # Spans of agents that were killed are ended after their deaths.
    spans_end? = Await.within?(5_000, fn -> spans_fit?(spans(tally)) end)
    stats = Map.merge(stats(), before, fn _event, now, then -> since(now, then) end)
    batches = %{count: Tally.get(tally, :batches), events: Tally.get(tally, :batched)}
    fits = spans_end? and fits?(stats, batches, Tally.get(tally, :call_events), calls, victims)
    Map.merge(stats, %{batches: batches, spans: spans(tally), fits: fits})
  end

  defp fits?(%{call: call, recorded: recorded}, batches, call_events, calls, victims) do
    # In the ETS engine a decision and its count are two steps, and a kill may come between.
    uncounted = if Foundation.engine() == :native, do: 0, else: victims

    # An agent that is killed between the decision and its handlers loses one event.
    (calls - call.emitted) in 0..uncounted and (calls - call_events) in 0..victims and
      call.offered == call.emitted + call.suppressed and
      recorded.offered == recorded.emitted + recorded.dropped and
      recorded.emitted == batches.events and
      (recorded.offered - call.offered) in 0..victims
  end

  defp spans(tally) do
    Map.new([:span_starts, :span_stops, :spans_abandoned], &{&1, Tally.get(tally, &1)})
  end

  defp spans_fit?(spans), do: spans.span_starts == spans.span_stops + spans.spans_abandoned

  defp stats, do: %{call: SampledEvents.stats(@call), recorded: SampledEvents.stats(@recorded)}

  defp since(now, before),
    do: Map.new(@outcomes, &{&1, Map.fetch!(now, &1) - Map.fetch!(before, &1)})

  @doc false
  def handle_event(@call, _measurements, _metadata, tally), do: Tally.add(tally, :call_events)

  def handle_event([:batched | @recorded], %{count: n}, _metadata, tally) do
    Tally.add(tally, :batched, n)
    Tally.add(tally, :batches)
  end

  def handle_event([:foundation, :span, event], _measurements, %{name: {:module, _}}, tally) do
    Tally.add(tally, span_count(event))
  end

  def handle_event(_another_span, _measurements, _metadata, _tally), do: :ok

  defp span_count(:start), do: :span_starts
  defp span_count(:stop), do: :span_stops
  defp span_count(:abandoned), do: :spans_abandoned

  defp id(%Tally{counts: ref}), do: {__MODULE__, ref}
end
