defmodule Foundation.Registry.SchedulingTest do
  @moduledoc """
  A long call leaves the normal schedulers, and a short one counts as reductions. Not async: a
  process has one tracer, and the telemetry tables belong to the application.
  """
  use Foundation.Case, async: false

  alias Foundation.{Cache, Native, Registry}
  alias Foundation.Telemetry.{SampledEvents, Sampler, Span}

  setup context do
    name = unique_name("scheduling")
    keys = Map.get(context, :keys, :unique)
    start_supervised!({Registry, name: name, keys: keys, engine: :native})
    %{name: name, worker: start_worker()}
  end

  describe "on a dirty scheduler" do
    test "a value with more elements than the count limit is looked up", %{
      name: name,
      worker: worker
    } do
      for {key, value} <- [
            tuple: Tuple.duplicate(1, 200_000),
            map: Map.new(1..150_000, &{&1, &1}),
            list: Enum.to_list(1..200_000)
          ] do
        {:ok, _} = Registry.register(name, key, value)
        assert dirty?(worker, fn -> Registry.lookup(name, key) end), "#{key}"
      end

      {:ok, _} = Registry.register(name, :light, Map.new(1..500, &{&1, &1}))
      refute dirty?(worker, fn -> Registry.lookup(name, :light) end)
    end

    test "a function is registered, and is looked up if it closes over large data", context do
      %{name: name, worker: worker} = context
      list = Enum.to_list(1..500_000)
      assert dirty?(worker, fn -> Registry.register(name, :much, fn -> list end) end)
      assert dirty?(worker, fn -> Registry.lookup(name, :much) end)

      # A short copy may be timed as a long one while the machine is busy.
      assert Enum.any?(1..20, fn key ->
               {:ok, _} = Registry.register(name, key, fn -> key end)
               not dirty?(worker, fn -> Registry.lookup(name, key) end)
             end)
    end

    test "a key with long binaries or integers is registered and looked up", context do
      %{name: name, worker: worker} = context
      long = :binary.copy("long", 200_000)

      for key <- [
            long,
            {:in, long},
            %{in: long},
            Bitwise.bsl(1, 4_000_000),
            {<<long::binary, 1::1>>}
          ] do
        assert dirty?(worker, fn -> {:ok, _} = Registry.register(name, key, 1) end)
        assert dirty?(worker, fn -> [{_pid, 1}] = Registry.lookup(name, key) end)
        assert dirty?(worker, fn -> Registry.put_meta(name, {:meta, key}, 1) end)
      end
    end

    # The VM copies such a binary to tell where its bytes are.
    test "a long binary that starts within a byte is stored, and no aligned one", context do
      %{name: name, worker: worker} = context
      long = :binary.copy("long", 200_000)
      <<_::3, unaligned::binary-size(800_000), _::5>> = <<0::3, long::binary, 0::5>>
      <<_::8, aligned::binary-size(800_000), _::8>> = <<0, long::binary, 0>>

      for {value, long?} <- [{unaligned, true}, {aligned, false}, {long, false}],
          shape <- [& &1, &{:in, &1}, &[&1, 1], &%{in: &1}] do
        value = shape.(value)
        {:ok, _} = run(worker, fn -> Registry.register(name, :key, 1) end)

        calls = [
          fn -> {_new, _old} = Registry.update_value(name, :key, fn _old -> value end) end,
          fn -> :ok = Registry.put_meta(name, :key, value) end,
          fn -> :ok = SampledEvents.emit_batched([:scheduling], %{}, %{value: value}) end,
          fn -> {:error, :not_found} = Span.record_event(:event, %{value: value}) end
        ]

        for call <- calls, do: assert(dirty?(worker, call) == long?)
        assert [{_pid, ^value}] = Registry.lookup(name, :key)
        assert Registry.meta(name, :key) == {:ok, value}
        :ok = run(worker, fn -> Registry.unregister(name, :key) end)
      end
    end

    # The VM copies each of them.
    test "many binaries that start within a byte are stored", context do
      %{name: name, worker: worker} = context
      zeros = <<0::size(800_000)>>
      <<_::3, unaligned::binary-size(100_000), _::5>> = <<0::3, zeros::binary, 0::5>>
      values = List.duplicate(unaligned, 30)
      assert dirty?(worker, fn -> Registry.put_meta(name, :key, values) end)
      assert Registry.meta(name, :key) == {:ok, values}
    end

    test "the reason of a failed load is copied for those who wait", context do
      %{name: name, worker: worker} = context
      cache = :"#{name}_cache"
      start_supervised!({Cache, name: cache, max_bytes: 100_000, engine: :native})
      large = Map.new(1..100_000, &{&1, &1})

      fail = fn -> raise KeyError, key: 0, term: large end
      assert dirty?(worker, fn -> catch_error(Cache.fetch(cache, :key, fail)) end)
    end

    test "a registry is started and stopped beside many", %{worker: worker} do
      start = fn name ->
        Native.registry_start(name, :unique, 1, [], [], :infinity, :infinity)
      end

      names = for _ <- 1..1_001, do: unique_name("one_of_many")

      run(worker, fn ->
        for name <- names, do: :created = start.(name)
        :ok
      end)

      name = unique_name("one_more")
      assert dirty?(worker, fn -> :created = start.(name) end)
      assert dirty?(worker, fn -> :ok = Native.registry_stop(name) end)
      for name <- names, do: :ok = Native.registry_stop(name)
    end

    test "lookup_many of long keys moves there after the first of them", context do
      %{name: name} = context
      keys = for n <- 1..20, do: %{n => :binary.copy("long", 50_000)}
      assert {results, rest} = Native.registry_lookup_many(name, keys)
      assert length(results) in 1..10 and length(rest) in 10..19
    end

    test "a long binary is compared when it is replaced", %{name: name, worker: worker} do
      long = :binary.copy("long", 200_000)
      {:ok, _} = run(worker, fn -> Registry.register(name, :key, {long}) end)
      replace = fn -> :ok = Native.registry_replace(name, :key, self(), {long}, 1) end
      assert dirty?(worker, replace)
    end

    test "a long dedup key and a long strategy name are read", %{worker: worker} do
      long = :binary.copy("long", 200_000)

      for key <- [long, {:in, long}, fn -> long end] do
        event = fn -> SampledEvents.emit_event([:scheduling], %{}, %{}, dedup_key: key) end
        assert dirty?(worker, event)
        assert dirty?(worker, fn -> Sampler.should_sample?(key, %{}) end)
      end
    end

    test "a span with much data in many pieces is read", %{worker: worker} do
      piece = Enum.to_list(1..1_000)

      run(worker, fn ->
        Span.start_span(:much, %{})
        for _ <- 1..100, do: Span.record_event(:piece, %{piece: piece})
      end)

      assert dirty?(worker, fn -> %{events: [_ | _]} = Span.current_span() end)
      assert dirty?(worker, fn -> :ok = Span.end_span() end)
    end

    @tag keys: :duplicate
    test "a large message is broadcast", %{name: name, worker: worker} do
      {:ok, _} = run(worker, fn -> Registry.register(name, :topic, 1) end)
      large = Map.new(1..10_000, &{&1, &1})
      sender = start_worker()
      assert dirty?(sender, fn -> Registry.broadcast(name, :topic, large) end)
      refute dirty?(sender, fn -> Registry.broadcast(name, :topic, :small) end)
    end

    @tag keys: :duplicate
    test "a process's keys are listed if they are long or many", %{name: name, worker: worker} do
      for index <- 1..100 do
        {:ok, _} = run(worker, fn -> Registry.register(name, long_key(index), 1) end)
      end

      lister = start_worker()
      assert dirty?(lister, fn -> Registry.keys(name, worker) end)

      other = start_worker()
      run(other, fn -> for _ <- 1..2_000, do: {:ok, _} = Registry.register(name, :same, 1) end)
      assert dirty?(lister, fn -> Registry.keys(name, other) end)

      {:ok, _} = run(lister, fn -> Registry.register(name, :one, 1) end)
      refute dirty?(lister, fn -> Registry.keys(name, lister) end)
    end

    test "a heavy value is compared when it is replaced", %{name: name, worker: worker} do
      heavy = Enum.to_list(1..200_000)
      {:ok, _} = run(worker, fn -> Registry.register(name, :key, heavy) end)
      assert dirty?(worker, fn -> :ok = Native.registry_replace(name, :key, self(), heavy, 1) end)
    end
  end

  describe "as reductions of the caller" do
    test "a chunk of a walk is counted", %{name: name} do
      for key <- 1..2_000, do: {:ok, _} = Registry.register(name, key, key)
      assert reductions(fn -> Native.registry_walk(name, 0) end) > 500
    end

    test "a chunk of lookups is counted", %{name: name} do
      keys = Enum.to_list(1..1_000)
      for key <- keys, do: {:ok, _} = Registry.register(name, key, key)
      assert reductions(fn -> Native.registry_lookup_many(name, keys) end) > 500
    end

    test "long keys make the chunks short", %{name: name} do
      for index <- 1..100, do: {:ok, _} = Registry.register(name, long_key(index), index)
      keys = for index <- 1..100, _time <- 1..5, do: long_key(index)
      assert {results, [_ | _]} = Native.registry_lookup_many(name, keys)
      assert length(results) in 1..200
      assert Registry.lookup_many(name, keys) == Enum.map(keys, &Registry.lookup(name, &1))
    end
  end

  defp long_key(index), do: :binary.copy(<<index>>, 60_000)

  # The number of reductions of one call.
  defp reductions(call) do
    {:reductions, before} = Process.info(self(), :reductions)
    call.()
    {:reductions, now} = Process.info(self(), :reductions)
    now - before
  end

  # Whether a worker ran on a dirty scheduler while it called `fun`.
  defp dirty?(worker, fun) do
    1 = :erlang.trace(worker, true, [:running, :scheduler_id])

    run(worker, fn ->
      fun.()
      :ok
    end)

    :erlang.trace(worker, false, [:running, :scheduler_id])
    ref = :erlang.trace_delivered(worker)
    assert_receive {:trace_delivered, ^worker, ^ref}
    Enum.any?(started(worker), &match?({{Native, _function, _arity}, 0}, &1))
  end

  # Where the worker continued, and on which scheduler. All dirty ones have the number 0.
  defp started(worker) do
    receive do
      {:trace, ^worker, :in, mfa, scheduler} -> [{mfa, scheduler} | started(worker)]
      {:trace, ^worker, :out, _mfa, _scheduler} -> started(worker)
    after
      0 -> []
    end
  end
end
