import Foundation.Conformance.Registry

conformance "Lock",
  variants: [
    [keys: :unique, needs: :lock],
    [keys: :unique, partitions: 4, needs: :lock],
    [keys: :duplicate, needs: :lock]
  ] do
  test "lock/3 returns what the function returns, and runs it in the caller", %{
    registry: registry
  } do
    assert Registry.lock(registry, :key, fn -> {self(), :result} end) == {self(), :result}
    assert Registry.lock(registry, :key, fn -> :again end) == :again
  end

  test "lock/3 makes other callers with the same key wait", %{registry: registry} do
    holder = hold(registry, :key)
    waiter = Task.async(fn -> Registry.lock(registry, :key, fn -> :got_it end) end)
    # The waiter waits for the holder. It is seen waiting, so it is not merely slow.
    eventually(fn -> Process.info(waiter.pid, :status) == {:status, :waiting} end)
    assert Task.yield(waiter, 50) == nil

    release(holder)
    assert Task.await(waiter, 30_000) == :got_it
  end

  test "lock/3 calls with different keys do not block each other; keys are compared by ===", %{
    registry: registry
  } do
    holders = for key <- [:key, "key", 1, {:a, 1}], do: hold(registry, key)
    assert Registry.lock(registry, 1.0, fn -> :free end) == :free
    assert Registry.lock(registry, :other, fn -> :free end) == :free
    Enum.each(holders, &release/1)
  end

  test "lock/3 calls in different registries do not block each other", %{
    registry: registry,
    options: options
  } do
    other = start_registry(Keyword.delete(options, :name))
    holder = hold(registry, :key)
    assert Registry.lock(other, :key, fn -> :free end) == :free
    release(holder)
  end

  test "lock/3 serves its callers in the order of their calls", %{registry: registry} do
    holder = hold(registry, :key)
    parent = self()

    waiters =
      for index <- 1..10 do
        task =
          Task.async(fn ->
            Registry.lock(registry, :key, fn -> send(parent, {:turn, index}) end)
          end)

        eventually(fn -> Process.info(task.pid, :status) == {:status, :waiting} end)
        task
      end

    release(holder)
    Task.await_many(waiters, 30_000)
    assert for(_ <- 1..10, do: receive_turn()) == Enum.to_list(1..10)
  end

  test "lock/3 frees the lock after a raise, a throw and an exit", %{registry: registry} do
    assert_raise RuntimeError, "oops", fn ->
      Registry.lock(registry, :key, fn -> raise "oops" end)
    end

    assert catch_throw(Registry.lock(registry, :key, fn -> throw(:ball) end)) == :ball
    assert catch_exit(Registry.lock(registry, :key, fn -> exit(:out) end)) == :out
    assert Registry.lock(registry, :key, fn -> :free end) == :free
  end

  test "lock/3 frees the lock when its holder is killed", %{registry: registry} do
    holder = hold(registry, :key)
    waiter = Task.async(fn -> Registry.lock(registry, :key, fn -> :got_it end) end)
    eventually(fn -> Process.info(waiter.pid, :status) == {:status, :waiting} end)
    kill(holder)
    assert Task.await(waiter, 30_000) == :got_it
  end

  test "lock/3 skips a waiter that was killed", %{registry: registry} do
    holder = hold(registry, :key)

    [doomed, patient] =
      for _index <- 1..2 do
        worker = start_worker()
        parent = self()
        fun = fn -> Registry.lock(registry, :key, fn -> send(parent, {:got_it, self()}) end) end
        send(worker, {:run, parent, make_ref(), fun})

        eventually(fn ->
          Process.info(worker, :current_function) !=
            {:current_function, {Foundation.Case, :work, 1}}
        end)

        eventually(fn -> Process.info(worker, :status) == {:status, :waiting} end)
        worker
      end

    kill(doomed)
    release(holder)
    assert_receive {:got_it, ^patient}
    assert Registry.lock(registry, :key, fn -> :free end) == :free
    refute_received {:got_it, ^doomed}
  end

  test "lock/3 admits one caller at a time, and every caller in the end", %{registry: registry} do
    counter = :counters.new(1, [])

    for _task <- 1..8 do
      Task.async(fn ->
        for _round <- 1..50 do
          Registry.lock(registry, :counter, fn ->
            # Reads and writes in two steps: two processes inside would lose an increment.
            value = :counters.get(counter, 1)
            :erlang.yield()
            :counters.put(counter, 1, value + 1)
          end)
        end
      end)
    end
    |> Task.await_many(30_000)

    assert :counters.get(counter, 1) == 8 * 50
  end

  test "lock/3 nests over different keys", %{registry: registry} do
    assert Registry.lock(registry, :outer, fn ->
             Registry.lock(registry, :inner, fn -> :both end)
           end) == :both

    assert Registry.lock(registry, :inner, fn -> :free end) == :free
  end

  test "lock/3 is independent of entries", %{registry: registry} do
    {:ok, _} = Registry.register(registry, :key, :value)

    assert Registry.lock(registry, :key, fn -> Registry.lookup(registry, :key) end) == [
             {self(), :value}
           ]

    assert Registry.count(registry) == 1
  end

  test "lock/3 of an unknown registry raises", _context do
    unknown = unique_name("unknown")

    assert_raise ArgumentError, "unknown registry: #{inspect(unknown)}", fn ->
      Registry.lock(unknown, :key, fn -> :never end)
    end
  end

  test "lock/3 takes a function without arguments", %{registry: registry} do
    message = "no function clause matching in #{inspect(Registry)}.lock/3"

    for arguments <- [[registry, :key, fn _ -> 1 end], ["name", :key, fn -> 1 end]],
        do:
          assert_raise(FunctionClauseError, message, fn -> apply(Registry, :lock, arguments) end)
  end

  defp hold(registry, key) do
    parent = self()
    worker = start_worker()

    fun = fn ->
      Registry.lock(registry, key, fn ->
        send(parent, {:holding, self()})
        receive do: (:release -> :ok)
      end)
    end

    send(worker, {:run, self(), make_ref(), fun})
    assert_receive {:holding, ^worker}
    worker
  end

  defp release(holder), do: send(holder, :release)

  defp receive_turn do
    receive do: ({:turn, index} -> index)
  end
end
