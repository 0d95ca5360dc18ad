defmodule Foundation.Hostile.AtomsTest do
  @moduledoc """
  No input from outside creates an atom. Not async: counts the VM's atoms.
  """
  use Foundation.TelemetryCase, async: false

  require Foundation.Telemetry.Span, as: Span

  alias Foundation.{AgentRegistry, ConcurrentRegistry, ErrorContext, FeatureFlags, Migration}
  alias Foundation.{Registry, RequestContext}
  alias Foundation.Telemetry.{SampledEvents, Sampler}

  import Foundation.Case

  @rounds 200

  for engine <- [:native, :ets] do
    @tag engine: engine
    test "no function creates an atom from a string, on the #{engine} engine" do
      name = unique_name("atoms")
      start_supervised!({Registry, name: name, keys: :unique, engine: unquote(engine)})
      table = ConcurrentRegistry.new(engine: unquote(engine))

      # Creates the atoms that only the first round needs.
      feed(name, table, "warm")
      before = :erlang.system_info(:atom_count)
      for _round <- 1..@rounds, do: feed(name, table, random())
      assert :erlang.system_info(:atom_count) == before
    end
  end

  test "the atom count rises when an atom is created" do
    before = :erlang.system_info(:atom_count)
    _atom = String.to_atom(random())
    assert :erlang.system_info(:atom_count) == before + 1
  end

  defp feed(name, table, string) do
    {:ok, _owner} = Registry.register(name, string, string)
    Registry.lookup(name, string)
    Registry.match(name, string, string)
    Registry.select(name, [{{string, :_, :"$1"}, [], [:"$1"]}])
    Registry.put_meta(name, {string, string}, string)
    Registry.lock(name, string, fn -> :ok end)
    Registry.whereis_name({name, string})
    Registry.unregister(name, string)
    :ok = AgentRegistry.register_agent(string, self(), %{string => string})
    AgentRegistry.update_metadata(string, %{more: string})
    AgentRegistry.unregister_agent(string)
    ConcurrentRegistry.put(table, string, string)

    ErrorContext.with_context(
      %{string => string, request_id: string, value: %{string => string}},
      fn ->
        context = ErrorContext.get_context()
        ErrorContext.add_breadcrumb(context, __MODULE__, :feed, %{string => string})
        ErrorContext.enrich_error(string)
      end
    )

    RequestContext.with_request_id(string, fn -> RequestContext.request_id() end)
    RequestContext.new_request_id()

    SampledEvents.emit_event([:atoms], %{}, %{string => string}, dedup_key: string)
    SampledEvents.emit_batched([:atoms], %{string => 1}, %{string => string})
    SampledEvents.flush([:atoms])
    Sampler.should_sample?(string, %{})
    Span.with_span(string, %{string => string}, do: Span.record_event(string, %{}))
    Span.from_traceparent(string)
    Span.from_traceparent("00-#{string}-#{string}-01")
    FeatureFlags.set(string, true)
    FeatureFlags.enabled_for_id?(:enforce_no_process_dict, string)
    Migration.to_stage(string)
    :ok
  end

  defp random, do: Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
end
