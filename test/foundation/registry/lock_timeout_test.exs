import Foundation.Conformance.Registry

conformance "LockTimeout", subjects: :ours, variants: [[keys: :unique], [keys: :duplicate]] do
  alias Foundation.Registry.Locks
  alias Foundation.Timeout

  test "lock/4 returns what the function returns when the lock is free", %{registry: registry} do
    for timeout <- [0, 1, 60_000, 4_294_967_295, :infinity],
        do:
          assert(
            Registry.lock(registry, :key, fn -> {self(), :ran} end, timeout) == {self(), :ran}
          )

    assert rows(registry) == []
  end

  test "lock/4 raises Foundation.Timeout when the lock is not free in time", %{registry: registry} do
    holder = hold(registry, :key)

    for timeout <- [0, 1, 20] do
      error =
        assert_raise Timeout, fn ->
          Registry.lock(registry, :key, fn -> flunk("ran") end, timeout)
        end

      assert error.ms == timeout
    end

    assert length(rows(registry)) == 1
    assert queued(registry, :key) == 1
    send(holder, :release)
    assert Registry.lock(registry, :key, fn -> :free end, 60_000) == :free
  end

  test "lock/4 leaves the queue of the others as it is when its time is over", %{
    registry: registry
  } do
    holder = hold(registry, :key)
    test = self()

    for n <- 1..3 do
      spawn_link(fn -> Registry.lock(registry, :key, fn -> send(test, {:turn, n}) end, 60_000) end)

      eventually(fn -> queued(registry, :key) == n + 1 end)
      assert_raise Timeout, fn -> Registry.lock(registry, :key, fn -> flunk("ran") end, 5) end
    end

    assert queued(registry, :key) == 4
    send(holder, :release)
    for n <- 1..3, do: assert_receive({:turn, ^n}, 5_000)
    eventually(fn -> rows(registry) == [] end)
  end

  test "lock/4 whose caller is killed while it waits leaves no row", %{registry: registry} do
    holder = hold(registry, :key)
    waiter = spawn(fn -> Registry.lock(registry, :key, fn -> flunk("ran") end, 60_000) end)
    eventually(fn -> queued(registry, :key) == 2 end)
    kill(waiter)
    eventually(fn -> length(rows(registry)) == 1 and queued(registry, :key) == 1 end)
    send(holder, :release)
    eventually(fn -> rows(registry) == [] end)
  end

  test "lock/4 admits one caller at a time, and each of the others after a wait", %{
    registry: registry
  } do
    inside = :counters.new(1, [])

    answers =
      for _task <- 1..8 do
        Task.async(fn ->
          for round <- 1..100, do: try_lock(registry, inside, rem(round, 3))
        end)
      end
      |> Task.await_many(60_000)
      |> List.flatten()

    assert Enum.all?(answers, &(&1 in [:alone, :timeout]))
    assert :alone in answers
    assert Registry.lock(registry, :key, fn -> :free end, 60_000) == :free
    eventually(fn -> rows(registry) == [] end)
  end

  test "lock/4 refuses a timeout of another type or range", %{registry: registry} do
    for wrong <- [-1, 1.0, nil, :never, "1", 4_294_967_296] do
      message = ~r/^expected the timeout of Foundation.Registry.lock\/4 to be an integer from 0 /

      assert_raise ArgumentError, message, fn ->
        Registry.lock(registry, :key, fn -> flunk("ran") end, wrong)
      end
    end
  end

  test "lock/4 refuses a wrong function and an unknown registry", %{registry: registry} do
    message = ~r/^expected the function of Foundation.Registry.lock\/4 to take no arguments/
    assert_raise ArgumentError, message, fn -> Registry.lock(registry, :key, :wrong, 0) end
    unknown = unique_name("unknown")

    assert_raise ArgumentError, "unknown registry: #{inspect(unknown)}", fn ->
      Registry.lock(unknown, :key, fn -> flunk("ran") end, 0)
    end
  end

  defp try_lock(registry, inside, timeout) do
    Registry.lock(
      registry,
      :key,
      fn ->
        :counters.add(inside, 1, 1)
        :erlang.yield()
        alone = :counters.get(inside, 1) == 1
        :counters.sub(inside, 1, 1)
        if alone, do: :alone, else: :not_alone
      end,
      timeout
    )
  rescue
    Timeout -> :timeout
  end

  defp hold(registry, key) do
    test = self()

    holder =
      spawn_link(fn ->
        Registry.lock(registry, key, fn ->
          send(test, {:holding, self()})
          receive do: (:release -> :ok)
        end)
      end)

    assert_receive {:holding, ^holder}, 5_000
    holder
  end

  defp rows(registry), do: :ets.match(Locks, {:_, {registry, :_}, :_, :_})
end
