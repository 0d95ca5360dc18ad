defmodule Foundation.Telemetry.Events.Backends.ETSTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Telemetry.Events.Backends.ETS

  @moduletag engine: :ets
  @moduletag settings: [batch_timeout: 60_000]

  @event [:suite, :raced]

  test "an event emitted before its caller counts it does not make pending negative" do
    ETS.append(@event, %{n: 1}, %{})
    # The first step of append/3 for the next event.
    :ets.insert(:sampled_events_batches, {{@event, 1}, System.system_time(), %{n: 2}, %{}})
    assert {[_, _], token} = ETS.peek(@event, 10)
    ETS.ack(@event, token)
    assert %{emitted: 1, pending: 0} = ETS.totals(@event)
    # Its second step.
    :ets.update_counter(:sampled_events_state, {:counts, @event}, {6, 1})
    assert %{emitted: 2, pending: 0} = ETS.totals(@event)
  end

  test "an event appended to sealed tables is returned to its caller" do
    ETS.append(@event, %{n: 1}, %{})
    ETS.seal()
    refute ETS.exists?()
    assert ETS.append(@event, %{n: 2}, %{}) == :alone
    assert {[{_at, %{n: 1}, %{}}], _token} = ETS.peek(@event, 10)
    assert {[], _token} = ETS.peek(@event, 10)
  end
end
