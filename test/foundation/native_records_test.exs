# From OTP 29 on, native records are a type of their own.
if List.to_integer(:erlang.system_info(:otp_release)) >= 29 do
  defmodule Foundation.NativeRecordsTest do
    use Foundation.Case, async: true

    alias Foundation.ConcurrentRegistry, as: Table
    alias Foundation.Registry
    alias Foundation.Telemetry.{SampledEvents, Span}

    # Elixir has no syntax for them.
    @module :foundation_native_records
    @source """
    -module(#{@module}).
    -record #pair{x, y}.
    -export([pair/2]).
    pair(X, Y) -> #pair{x = X, y = Y}.
    """

    setup_all do
      forms =
        for line <- String.split(@source, "\n", trim: true) do
          {:ok, tokens, _} = :erl_scan.string(String.to_charlist(line))
          {:ok, form} = :erl_parse.parse_form(tokens)
          form
        end

      {:ok, @module, binary} = :compile.forms(forms, [])
      {:module, @module} = :code.load_binary(@module, ~c"nofile", binary)
      :ok
    end

    defp pair(x, y), do: apply(@module, :pair, [x, y])

    for engine <- [:native, :ets], keys <- [:unique, :duplicate] do
      test "native records work as keys and values of a registry, #{engine}, #{keys}" do
        registry = unquote(:"#{__MODULE__}.#{engine}.#{keys}")

        start_supervised!(
          {Registry, name: registry, keys: unquote(keys), engine: unquote(engine)}
        )

        for key <- [pair(1, "x"), {:in, pair(1, "x")}, [pair(1, "x")], %{pair(1, "x") => 1}] do
          assert Registry.lookup(registry, key) == []
          {:ok, _} = Registry.register(registry, key, {:of, pair(key, "y")})
          assert Registry.lookup(registry, key) == [{self(), {:of, pair(key, "y")}}]
        end

        assert Registry.lookup(registry, pair(1, "y")) == []
        :ok = Registry.unregister(registry, pair(1, "x"))
        assert Registry.lookup(registry, pair(1, "x")) == []
        assert Registry.count(registry) == 3
      end

      test "native records work as keys and values of a concurrent table, #{engine}, #{keys}" do
        table = Table.new(engine: unquote(engine))
        large = pair(Enum.to_list(1..100_000), unquote(keys))
        :ok = Table.put(table, pair(1, 2), large)
        assert Table.get(table, pair(1, 2)) == large
      end
    end

    test "native records work as names, attributes and keys of telemetry" do
      id = Span.start_span(pair(1, 2), %{a: pair(3, 4)})
      assert %{name: name, attributes: attributes} = Span.current_span()
      assert {name, attributes} == {pair(1, 2), %{a: pair(3, 4)}}
      assert Span.end_span(id) == :ok

      event = [:native_records, :seen]
      for _ <- 1..3, do: SampledEvents.emit_event(event, %{}, %{dedup_key: pair(1, 2)})
      assert %{emitted: 1, suppressed: 2} = SampledEvents.stats(event)
    end
  end
end
