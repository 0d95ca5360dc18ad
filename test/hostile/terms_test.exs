defmodule Foundation.Hostile.TermsTest do
  @moduledoc """
  Terms that are deep, wide, long or odd, at every place that takes a user's term. They come back
  unchanged, and the VM survives. Recursion in the library would overflow the stack of a scheduler's
  thread.

  Not async: uses much memory, and the telemetry tables belong to the application.
  """
  use Foundation.TelemetryCase, async: false

  alias Foundation.{AgentRegistry, ConcurrentRegistry, ErrorContext, FeatureFlags, Registry}
  alias Foundation.Telemetry.{SampledEvents, Sampler, Span}

  import Foundation.Case, only: [foreign_pid: 0, unique_name: 1]

  @moduletag timeout: 300_000

  # Far deeper than a stack allows for recursion.
  @depth 200_000
  @deepest 10_000_000
  @wide 200_000

  @names ~w(deep deep_tuple wide_tuple wide_map long_binary bits improper big_integer function odd)a

  @tag settings: [window: 3_600_000]
  test "a list nested ten million deep works as a key and as a value" do
    name = unique_name("deepest")
    start_supervised!({Registry, name: name, keys: :unique, engine: :native})
    deep = nested_lists(@deepest)

    assert {:ok, _owner} = Registry.register(name, deep, 1)
    assert Registry.lookup(name, deep) == [{self(), 1}]
    assert Registry.keys(name, self()) == [deep]
    assert Registry.unregister(name, deep) == :ok
    assert Registry.lookup(name, deep) == []
    assert {:ok, _owner} = Registry.register(name, 1, deep)
    assert Registry.lookup(name, 1) == [{self(), deep}]
  end

  test "a binary of 100 MB works as a key and as a value" do
    name = unique_name("longest")
    start_supervised!({Registry, name: name, keys: :unique, engine: :native})
    assert {:ok, _owner} = Registry.register(name, longest(), longest())
    assert Registry.lookup(name, longest()) == [{self(), longest()}]
    assert Registry.unregister(name, longest()) == :ok
    assert Registry.lookup(name, longest()) == []
  end

  for engine <- [:native, :ets], name <- @names do
    describe "#{name} on the #{engine} engine:" do
      @describetag engine: engine
      @describetag settings: [window: 3_600_000, batch_timeout: 600_000]

      test "works as a key, a value and metadata of a registry" do
        for keys <- [:unique, :duplicate] do
          name = unique_name("hostile")
          start_supervised!({Registry, name: name, keys: keys, engine: unquote(engine)}, id: name)
          term = term(unquote(name))
          me = self()

          assert {:ok, _owner} = Registry.register(name, term, term)
          assert Registry.lookup(name, term) === [{me, term}]
          assert Registry.values(name, term, me) === [term]
          assert Registry.keys(name, me) === [term]
          assert Enum.to_list(Registry.stream(name)) === [{term, me, term}]
          assert Registry.lookup_many(name, [term, :absent]) === [[{me, term}], []]
          if keys == :unique, do: assert(Registry.whereis_name({name, term}) == me)
          assert Registry.unregister(name, term) == :ok
          assert Registry.lookup(name, term) == []
          assert Registry.put_meta(name, {:key, term}, term) == :ok
          assert Registry.meta(name, {:key, term}) === {:ok, term}
          stop_supervised!(name)
        end
      end

      test "works as a key and a value of a concurrent table" do
        table = ConcurrentRegistry.new(engine: unquote(engine))
        term = term(unquote(name))
        assert ConcurrentRegistry.put(table, term, term) == :ok
        assert ConcurrentRegistry.get(table, term) === term
        assert ConcurrentRegistry.update(table, term, nil, &{&1}) === {term}
        assert Enum.to_list(ConcurrentRegistry.stream(table)) === [{term, {term}}]
        assert ConcurrentRegistry.delete(table, term) == :ok
        assert ConcurrentRegistry.size(table) == 0
      end

      test "works as a dedup key, as data of a batched event and as a strategy's name" do
        term = term(unquote(name))
        event = [:hostile, unquote(name)]

        for _repeat <- 1..2 do
          assert SampledEvents.emit_event(event, %{}, %{}, dedup_key: term) == :ok
        end

        assert %{emitted: 1, suppressed: 1} = SampledEvents.stats(event)

        listen([[:batched | event]])
        assert SampledEvents.emit_batched(event, %{term: term}, %{term: term}) == :ok
        assert SampledEvents.flush(event) == :ok
        assert [{%{count: 1}, %{events: [carried]}}] = received([:batched | event])
        assert carried === %{measurements: %{term: term}, metadata: %{term: term}}

        assert Sampler.configure_event(term, :never) == :ok
        refute Sampler.should_sample?(term, %{})
      end

      test "works as a name and an attribute of a span" do
        term = term(unquote(name))
        listen([[:foundation, :span, :stop]])
        Span.start_span(term, %{term: term})
        assert Span.add_attributes(%{more: term}) == :ok
        assert Span.record_event(term, %{term: term}) == :ok
        assert %{name: ^term, attributes: %{term: ^term, more: ^term}} = Span.current_span()
        assert Span.end_span() == :ok

        assert [{_duration, %{name: ^term, events: [event]}}] =
                 received([:foundation, :span, :stop])

        assert %{name: ^term, attributes: %{term: ^term}} = event
      end
    end
  end

  for name <- @names do
    test "#{name}: works as an agent's id and metadata" do
      term = term(unquote(name))
      assert AgentRegistry.register_agent(term, self(), %{term: term}) == :ok
      assert AgentRegistry.get_agent_with_metadata(term) === {:ok, {self(), %{term: term}}}
      assert AgentRegistry.update_metadata(term, &Map.put(&1, :more, term)) == :ok
      assert AgentRegistry.unregister_agent(term) == :ok
      assert AgentRegistry.get_agent(term) == {:error, :not_found}
    end

    test "#{name}: works as a key and a value of an error context" do
      term = term(unquote(name))
      context = %{term => term, term: term}
      assert ErrorContext.set_context(context) == :ok
      assert ErrorContext.get_context() === context

      ErrorContext.with_context(%{more: term}, fn ->
        assert ErrorContext.get_context() === Map.put(context, :more, term)
      end)

      assert ErrorContext.get_context() === context
      assert ErrorContext.enrich_error(term) === %{error: term, context: context}
      assert ErrorContext.clear_context() == :ok
    end

    test "#{name}: works as an id for a flag, and is refused as a flag's name or value" do
      term = term(unquote(name))
      assert FeatureFlags.enabled_for_id?(:use_ets_agent_registry, term)
      assert {:error, {:unknown_flag, ^term}} = FeatureFlags.enable(term)
      assert {:error, {:invalid_value, ^term}} = FeatureFlags.set(:use_ets_agent_registry, term)
    end
  end

  defp term(:deep), do: nested_lists(@depth)
  defp term(:deep_tuple), do: Enum.reduce(1..@depth, {}, fn n, inner -> {n, inner} end)
  defp term(:wide_tuple), do: Tuple.duplicate(:wide, @wide)
  defp term(:wide_map), do: Map.new(1..@wide, &{&1, &1})
  defp term(:long_binary), do: :binary.copy("a long one", 1_000_000)
  defp term(:bits), do: <<:binary.copy("bits", 1_000_000)::binary, 5::3>>
  defp term(:improper), do: Enum.reduce(1..@depth, :tail, &[&1 | &2])
  # Later versions of OTP create none of more than 4,194,303 bits.
  defp term(:big_integer), do: Bitwise.bsl(1, 4_000_000)

  defp term(:function) do
    environment = Enum.to_list(1..@wide)
    fn -> environment end
  end

  defp term(:odd) do
    node = <<119, 14, "nobody@nowhere">>

    reference =
      :erlang.binary_to_term(<<131, 90, 3::16, node::binary, 1::32, 5::32, 6::32, 7::32>>)

    port = :erlang.binary_to_term(<<131, 120, node::binary, 5::64, 1::32>>)
    pids = [foreign_pid(), self()]

    [
      reference,
      port,
      pids,
      -0.0,
      0.0,
      <<>>,
      <<1::1>>,
      make_ref(),
      hd(Port.list()),
      1.0e308,
      [[] | []]
    ]
  end

  defp longest, do: :binary.copy("a long one", 10_000_000)

  defp nested_lists(depth), do: Enum.reduce(1..depth, [], fn _level, inner -> [inner] end)
end
