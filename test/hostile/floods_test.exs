defmodule Foundation.Hostile.FloodsTest do
  @moduledoc """
  More items than a table has room for. The areas' own tests flood windows, pending events, entries,
  spans and contexts. The tests here need a VM of their own, or many processes.
  """
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.Registry
  alias Foundation.Registry.Locks
  alias Foundation.Telemetry.{SampledEvents, Sampler}

  @names 10_000
  @others [:foundation, :other_events]

  test "event names over the bound share one name for counts and batches, and no event is lost" do
    alone(fn ->
      names = for n <- 1..(@names + 2_000), do: [:flood, :"name_#{n}"]

      for _repeat <- 1..2, name <- names do
        :ok = SampledEvents.emit_event(name, %{}, %{})
        :ok = SampledEvents.emit_batched(name, %{n: 1}, %{})
      end

      :ok = SampledEvents.flush()
      total = length(names)
      assert %{suppressed: ^total, pending: 0, dropped: 0} = stats = SampledEvents.stats()
      assert stats.emitted == 3 * total and stats.offered == 4 * total
      assert %{emitted: 3, suppressed: 1} = SampledEvents.stats(hd(names))
      assert %{emitted: 6_000, suppressed: 2_000} = SampledEvents.stats(@others)
    end)
  end

  test "strategies for names over the bound are refused, and earlier ones still apply" do
    alone(fn ->
      refused =
        Enum.count(1..(@names + 500), fn n ->
          try do
            :ok = Sampler.configure_event({:flood, n}, :never)
            false
          rescue
            SystemLimitError -> true
          end
        end)

      assert refused == 500
      refute Sampler.should_sample?({:flood, 1}, %{})
      refute Sampler.should_sample?({:flood, @names}, %{})
      assert Sampler.should_sample?({:flood, @names + 1}, %{})
    end)
  end

  test "thousands of started and stopped registries leave nothing behind" do
    alone(fn ->
      before = counts()

      owners =
        for n <- 1..3_000 do
          {:ok, owner} = Registry.start_link(name: :"flood_#{n}", keys: :unique, engine: :native)
          {:ok, ^owner} = Registry.register(:"flood_#{n}", :key, make_ref())
          owner
        end

      assert counts().registries == before.registries + 3_000
      assert [{_pid, _ref}] = Registry.lookup(:flood_1, :key)
      Enum.each(owners, &GenServer.stop/1)
      eventually(fn -> assert counts() == before end)
    end)
  end

  test "each living waiter of a flooded lock gets it in order, and no row is left" do
    name = unique_name("flood")
    start_supervised!({Registry, name: name, keys: :unique})
    test = self()
    holder = spawn_link(fn -> Registry.lock(name, :lock, fn -> receive(do: (:go -> :ok)) end) end)
    eventually(fn -> queued(name, :lock) == 1 end)

    waiters =
      for n <- 1..1_000 do
        pid = spawn(fn -> Registry.lock(name, :lock, fn -> send(test, {:got, n}) end) end)
        eventually(fn -> queued(name, :lock) == n + 1 end)
        {n, pid}
      end

    {killed, alive} = Enum.split_with(waiters, fn {n, _pid} -> rem(n, 3) == 0 end)
    for {_n, pid} <- killed, do: kill(pid)
    send(holder, :go)

    for {n, _pid} <- alive do
      assert_receive {:got, got}
      assert got == n
    end

    eventually(fn -> queued(name, :lock) == 0 end)
    assert :ets.match(Locks, {:_, {name, :_}, :_, :_}) == []
    refute_received {:got, _}
  end

  test "a flood of listeners gets every message in order" do
    listeners = for _ <- 1..300, do: unique_name("listener")
    test = self()

    for listener <- listeners do
      pid = spawn_link(fn -> forward(test, listener) end)
      Process.register(pid, listener)
    end

    name = unique_name("flood")
    start_supervised!({Registry, name: name, keys: :unique, listeners: listeners})

    for key <- 1..20 do
      {:ok, _owner} = Registry.register(name, key, nil)
      :ok = Registry.unregister(name, key)
    end

    for listener <- listeners, key <- 1..20 do
      assert_receive {^listener, {:register, ^name, ^key, ^test, nil}}
      assert_receive {^listener, {:unregister, ^name, ^key, ^test}}
    end
  end

  defp forward(test, listener) do
    receive do
      message -> send(test, {listener, message})
    end

    forward(test, listener)
  end
end
