defmodule Foundation.NativeArgumentsTest do
  # Not async: the telemetry tables belong to the application.
  use Foundation.Case, async: false

  alias Foundation.{Native, NativeArguments}

  setup do
    unique = unique_name("arguments")
    start_supervised!({Foundation.Registry, name: unique, keys: :unique, engine: :native}, id: :u)
    duplicate = unique_name("arguments")

    start_supervised!({Foundation.Registry, name: duplicate, keys: :duplicate, engine: :native},
      id: :d
    )

    # Event logs of the same names, because the functions return nil for a log that does not exist.
    dir = Path.join(System.tmp_dir!(), "foundation_#{unique}")

    for name <- [unique, duplicate] do
      path = Path.join(dir, "#{name}")
      :created = Native.event_log_start(name, path, 0, 1_000_000, 1_000_000, 60_000)
      on_exit(fn -> Native.event_log_stop(name) end)
    end

    on_exit(fn -> File.rm_rf!(dir) end)

    instances = [
      bulkhead: {Foundation.Bulkhead, max: 10},
      breaker: {Foundation.CircuitBreaker, []},
      limiter: {Foundation.RateLimiter, limit: {10, 1_000}},
      cache: {Foundation.Cache, max_bytes: 1_000_000}
    ]

    for {type, {module, options}} <- instances do
      options = [name: NativeArguments.valid(type, nil), engine: :native] ++ options
      start_supervised!({module, options})
    end

    # Any atom is the name of a cache that can be opened.
    on_exit(fn ->
      for {name, tag} <- NativeArguments.terms(),
          tag in NativeArguments.accepted(:new_name),
          do: Native.cache_stop(name)
    end)

    %{names: [unique, duplicate]}
  end

  test "the types of every function's arguments are known" do
    known = for {name, types} <- NativeArguments.all(), do: {name, length(types)}
    assert NativeArguments.functions() == Enum.sort(known)
  end

  # A term of another type at any position is refused with an ArgumentError. The library does not
  # crash or panic, gives no other answer, and changes nothing.
  for {function, types} <- NativeArguments.all(),
      {type, position} <- Enum.with_index(types),
      type not in [:any, :event] do
    test "#{function} refuses any term but #{type} at argument #{position}", %{names: names} do
      for name <- names,
          {wrong, tag} <- NativeArguments.terms(),
          tag not in NativeArguments.accepted(unquote(type)) do
        assert_raise ArgumentError, fn ->
          result = call(unquote(function), name, unquote(position), wrong)
          flunk("#{unquote(function)}: took #{inspect(wrong)} and gave #{inspect(result)}")
        end
      end
    end
  end

  # The engine knows no event of such a name. Its caller then checks the name.
  for {function, types} <- NativeArguments.all(),
      {:event, position} <- Enum.with_index(types) do
    test "#{function} returns nil for a term that is no event name at argument #{position}", %{
      names: [name | _]
    } do
      for {wrong, tag} <- NativeArguments.terms(),
          tag not in NativeArguments.accepted(:event) do
        assert {wrong, call(unquote(function), name, unquote(position), wrong)} == {wrong, nil}
      end
    end
  end

  # Arguments of any type accept all terms.
  for {function, types} <- NativeArguments.all(),
      {:any, position} <- Enum.with_index(types) do
    test "#{function} accepts any term at argument #{position}", %{names: names} do
      for name <- names, {term, _tag} <- NativeArguments.terms() do
        call(unquote(function), name, unquote(position), term)
      end
    end
  end

  test "the tables start with all settings or with none" do
    before = Native.telemetry_settings([:foundation_test, :settings])

    for position <- 0..4 do
      settings = List.replace_at([1, 1, 1, 1, 1], position, :wrong)
      assert_raise ArgumentError, fn -> apply(Native, :telemetry_start, settings) end
    end

    assert Native.telemetry_settings([:foundation_test, :settings]) == before
  end

  test "cursors that were never issued get an answer", %{names: names} do
    for name <- names do
      for key <- 1..50, do: Native.registry_register(name, key, key)

      for cursor <- [1, 2 ** 63, 2 ** 64 - 1, {1, 2, 3}, {2 ** 64 - 1, 2 ** 64 - 1, 2 ** 64 - 1}] do
        assert {entries, _cursor} = Native.registry_walk(name, cursor)
        assert is_list(entries)
      end

      for number <- [1, 2 ** 32, 2 ** 64 - 1] do
        assert {entries, :done} = Native.registry_walk_key(name, 1, number)
        assert is_list(entries)
        assert {sent, [], :done} = Native.registry_broadcast(name, 1, :message, number)
        assert sent in 0..1
      end
    end

    for cursor <- [1, 2 ** 32, 2 ** 64 - 1] do
      assert {events, _cursor} = Native.telemetry_events(cursor)
      assert is_list(events)
      assert {strategies, _cursor} = Native.sampler_events(cursor)
      assert is_list(strategies)
      assert {[], true} = Native.span_leave(cursor)
      event = [:foundation_test, :cursors]
      assert {[], 0} = Native.telemetry_peek(event, cursor, cursor)
      assert Native.telemetry_ack(event, cursor) == 0
    end
  end

  defp call(function, name, position, term) do
    arguments =
      NativeArguments.all()
      |> Map.fetch!(function)
      |> Enum.map(&NativeArguments.valid(&1, name))
      |> List.replace_at(position, term)

    apply(Native, function, arguments)
  end
end
