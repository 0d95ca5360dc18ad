defmodule Foundation.BulkheadTest do
  use Foundation.Conformance.Resilience

  doctest Foundation.Bulkhead

  defp waiting(name, count),
    do: eventually(fn -> Bulkhead.info(name).waiting == count end)

  # Workers that wait for a permit, in the order of the list.
  defp queue_of_workers(name, count) do
    for n <- 1..count do
      worker = in_worker(name, [], :got)
      waiting(name, n)
      worker
    end
  end

  # A worker that holds a permit, or waits for one, and tells the test.
  defp in_worker(name, options, tag) do
    test = self()
    worker = start_worker()

    send(
      worker,
      {:run, test, make_ref(),
       fn -> send(test, {tag, worker, Bulkhead.acquire(name, options)}) end}
    )

    worker
  end

  conform "run/3 returns what the function returns, and gives the permit back", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1)
    assert Bulkhead.run(name, fn -> Bulkhead.info(name).in_use end) == 1
    assert Bulkhead.info(name).in_use == 0
    assert catch_error(Bulkhead.run(name, fn -> raise "x" end)) == %RuntimeError{message: "x"}
    assert catch_throw(Bulkhead.run(name, fn -> throw(:x) end)) == :x
    assert catch_exit(Bulkhead.run(name, fn -> exit(:x) end)) == :x
    assert Bulkhead.info(name).in_use == 0
    assert Bulkhead.info(name).granted == 4
  end

  conform "a call beyond max is rejected with :full, and counted once", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1)
    {:ok, permit} = Bulkhead.acquire(name)

    assert {:error, %Rejected{by: :bulkhead, name: ^name, reason: :full, retry_after_ms: nil}} =
             Bulkhead.acquire(name)

    assert Bulkhead.info(name).rejected == 1
    assert Bulkhead.release(permit) == :ok
    assert {:ok, _permit} = Bulkhead.acquire(name)
  end

  conform "a weight counts as such, and one above max is full at once", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 3, queue: 1, wait: 60_000)
    {:ok, permit} = Bulkhead.acquire(name, weight: 2)
    assert Bulkhead.info(name).in_use == 2
    assert {:error, %Rejected{reason: :full}} = Bulkhead.acquire(name, weight: 4)
    assert {:error, %Rejected{reason: :full}} = Bulkhead.acquire(name, weight: 2 ** 70)
    assert {:error, %Rejected{reason: :full}} = Bulkhead.acquire(name, weight: 2, wait: 0)
    assert Bulkhead.release(permit) == :ok
    assert {:ok, _permit} = Bulkhead.acquire(name, weight: 3)
  end

  conform "a second release changes nothing, and any process may release", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 2)
    {:ok, first} = Bulkhead.acquire(name)
    {:ok, _second} = Bulkhead.acquire(name)
    assert run(start_worker(), fn -> Bulkhead.release(first) end) == :ok
    assert Bulkhead.release(first) == :ok
    assert Bulkhead.info(name).in_use == 1
  end

  conform "a permit comes back when its process is killed", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1)
    worker = start_worker()
    {:ok, permit} = run(worker, fn -> Bulkhead.acquire(name) end)
    kill(worker)
    eventually(fn -> Bulkhead.info(name).in_use == 0 end)
    assert Bulkhead.info(name).reclaimed == 1
    assert Bulkhead.release(permit) == :ok
    assert Bulkhead.info(name).in_use == 0
  end

  conform "a call waits for ever if the instance or the call says so", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 1, wait: :infinity)
    other = start!(Bulkhead, engine, max: 1, queue: 1)

    for {name, options} <- [{name, []}, {other, [wait: :infinity]}] do
      {:ok, permit} = Bulkhead.acquire(name)
      worker = in_worker(name, options, :acquired)
      waiting(name, 1)
      assert Bulkhead.release(permit) == :ok
      assert_receive {:acquired, ^worker, {:ok, _permit}}, 60_000
    end
  end

  conform "waiters are served in the order of arrival", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 10, wait: 60_000)
    {:ok, permit} = Bulkhead.acquire(name)
    workers = queue_of_workers(name, 5)
    Bulkhead.release(permit)

    for worker <- workers do
      assert_receive {:got, ^worker, {:ok, permit}}
      refute_received {:got, _worker, _answer}
      Bulkhead.release(permit)
    end

    assert %{in_use: 0, waiting: 0} = Bulkhead.info(name)
  end

  conform "the newest waiter is served first with order: :lifo", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 10, wait: 60_000, order: :lifo)
    {:ok, permit} = Bulkhead.acquire(name)
    workers = queue_of_workers(name, 3)
    Bulkhead.release(permit)

    for worker <- Enum.reverse(workers) do
      assert_receive {:got, ^worker, {:ok, permit}}
      Bulkhead.release(permit)
    end
  end

  conform "a heavy waiter at the front is not overtaken", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 3, queue: 10, wait: 60_000)
    {:ok, one} = Bulkhead.acquire(name)
    {:ok, two} = Bulkhead.acquire(name, weight: 2)
    heavy = in_worker(name, [weight: 3], :got)
    waiting(name, 1)
    light = in_worker(name, [weight: 1], :got)
    waiting(name, 2)
    Bulkhead.release(one)
    assert {:error, %Rejected{reason: :full}} = Bulkhead.acquire(name, wait: 0)
    assert Bulkhead.info(name).waiting == 2
    Bulkhead.release(two)
    assert_receive {:got, ^heavy, {:ok, permit}}
    refute_received {:got, ^light, _answer}
    Bulkhead.release(permit)
    assert_receive {:got, ^light, {:ok, _permit}}
  end

  conform "a waiter behind a heavy one that gives up is served", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 2, queue: 10)
    {:ok, _one} = Bulkhead.acquire(name)
    heavy = in_worker(name, [weight: 2, wait: 300], :got)
    waiting(name, 1)
    light = in_worker(name, [wait: 60_000], :got)
    assert_receive {:got, ^heavy, {:error, %Rejected{reason: :timeout}}}
    assert_receive {:got, ^light, {:ok, _permit}}
    assert %{timed_out: 1, rejected: 0} = Bulkhead.info(name)
  end

  conform "a dead waiter is passed over", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 10, wait: 60_000)
    {:ok, permit} = Bulkhead.acquire(name)
    first = in_worker(name, [], :got)
    waiting(name, 1)
    second = in_worker(name, [], :got)
    waiting(name, 2)
    kill(first)
    waiting(name, 1)
    Bulkhead.release(permit)
    assert_receive {:got, ^second, {:ok, _permit}}
  end

  conform "a queue that is full rejects at once", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 1, wait: 60_000)
    {:ok, _permit} = Bulkhead.acquire(name)
    in_worker(name, [], :got)
    waiting(name, 1)
    assert {:error, %Rejected{reason: :full}} = Bulkhead.acquire(name)
  end

  conform "a waiter that times out owns nothing, and leaves no message", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 1)
    worker = start_worker()
    {:ok, permit} = run(worker, fn -> Bulkhead.acquire(name) end)
    assert {:error, %Rejected{reason: :timeout}} = Bulkhead.acquire(name, wait: 1)
    run(worker, fn -> Bulkhead.release(permit) end)
    assert %{in_use: 0, waiting: 0, timed_out: 1} = Bulkhead.info(name)
    assert Process.info(self(), :messages) == {:messages, []}
  end

  conform "resize/2 serves waiters, lets permits drain, and refuses heavy waiters", %{
    engine: engine
  } do
    name = start!(Bulkhead, engine, max: 2, queue: 10, wait: 60_000)
    {:ok, one} = Bulkhead.acquire(name)
    {:ok, two} = Bulkhead.acquire(name)
    heavy = in_worker(name, [weight: 2], :got)
    waiting(name, 1)
    assert Bulkhead.resize(name, 1) == :ok
    assert_receive {:got, ^heavy, {:error, %Rejected{reason: :full}}}
    assert %{in_use: 2, max: 1, waiting: 0, rejected: 1} = Bulkhead.info(name)
    light = in_worker(name, [], :got)
    waiting(name, 1)
    Bulkhead.release(one)
    assert Bulkhead.info(name).waiting == 1
    assert Bulkhead.resize(name, 3) == :ok
    assert_receive {:got, ^light, {:ok, _permit}}
    Bulkhead.release(two)
    kill_owner(name)
    assert Bulkhead.info(name).max == 3
  end

  conform "a key has permits of its own", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, max_keys: 2)
    {:ok, _} = Bulkhead.acquire({name, :a})
    {:ok, b} = Bulkhead.acquire({name, "b"})
    assert {:ok, _} = Bulkhead.acquire(name)
    key = {name, :a}
    assert {:error, %Rejected{reason: :full, name: ^key}} = Bulkhead.acquire(key)
    assert {:error, %Rejected{reason: :max_keys}} = Bulkhead.acquire({name, 3})
    assert Bulkhead.info({name, 3}).in_use == 0
    Bulkhead.release(b)
    assert {:ok, _} = Bulkhead.acquire({name, 3})
    assert {:error, %Rejected{reason: :max_keys}} = Bulkhead.acquire({name, "b"})
    assert Bulkhead.resize({name, :a}, 2) == :ok
    assert {:ok, _} = Bulkhead.acquire({name, :a})
    assert Bulkhead.info(name).max == 1
  end

  conform "permits, waiters and counts survive a kill of the owner", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 2, queue: 10, wait: 60_000)
    {:ok, one} = Bulkhead.acquire(name)
    {:ok, two} = Bulkhead.acquire(name)
    first = in_worker(name, [], :got)
    waiting(name, 1)
    second = in_worker(name, [], :got)
    waiting(name, 2)
    kill_owner(name)
    assert %{in_use: 2, waiting: 2, granted: 2} = Bulkhead.info(name)
    Bulkhead.release(one)
    assert_receive {:got, ^first, {:ok, _permit}}
    Bulkhead.release(two)
    assert_receive {:got, ^second, {:ok, _permit}}
    assert Bulkhead.info(name).in_use == 2
    for worker <- [first, second], do: kill(worker)
    eventually(fn -> Bulkhead.info(name).in_use == 0 end)
  end

  conform "an orderly stop forgets everything, and those who wait are told", %{engine: engine} do
    name = start!(Bulkhead, engine, max: 1, queue: 1, wait: 60_000)
    {:ok, permit} = Bulkhead.acquire(name)
    waiter = start_worker()

    task =
      Task.async(fn -> run_in_mortal(waiter, fn -> catch_error(Bulkhead.acquire(name)) end) end)

    waiting(name, 1)
    stop_supervised!(name)
    assert {:returned, %ArgumentError{}} = Task.await(task, 30_000)
    assert Bulkhead.release(permit) == :ok

    assert_raise ArgumentError, ~r/unknown bulkhead: #{inspect(name)}/, fn ->
      Bulkhead.info(name)
    end

    start!(Bulkhead, engine, name: name, max: 1)
    assert {:ok, _} = Bulkhead.acquire(name)
    assert Bulkhead.release(permit) == :ok
    assert Bulkhead.info(name).in_use == 1
  end

  conform "other options are applied to the state that a crash has left", %{engine: engine} do
    name = unique_name("bulkhead")
    start = fn max -> Bulkhead.start_link(name: name, engine: engine, max: max) end
    owner = start_worker()

    {:ok, first} =
      run(owner, fn -> start.(1) |> tap(fn {:ok, pid} -> Process.unlink(pid) end) end)

    {:ok, _permit} = Bulkhead.acquire(name)
    kill(first)
    {:ok, second} = run(owner, fn -> start.(2) end)
    assert %{in_use: 1, max: 2} = Bulkhead.info(name)
    assert {:error, {:already_started, ^second}} = run(owner, fn -> start.(2) end)
    run(owner, fn -> GenServer.stop(second) end)
  end

  conform "wrong options and arguments raise", %{engine: engine} do
    name = unique_name("bulkhead")

    for options <- [
          [],
          [name: name],
          [name: name, max: 0],
          [name: name, max: 1.5],
          [name: "name", max: 1],
          [name: name, max: 1, order: :random],
          [name: name, max: 1, queue: -1],
          :wrong
        ] do
      assert_raise ArgumentError, fn -> Bulkhead.start_link(options) end
    end

    assert_raise ArgumentError, ~r/did you mean :queue/, fn ->
      Bulkhead.start_link(name: name, max: 1, queu: 1)
    end

    name = start!(Bulkhead, engine, max: 1)

    for wrong <- ["name", 1, {name, 1, 2}, {"name", 1}, [], %{}, nil] do
      assert_raise ArgumentError, fn -> Bulkhead.acquire(wrong) end
      assert_raise ArgumentError, fn -> Bulkhead.run(wrong, fn -> :ok end) end
      assert_raise ArgumentError, fn -> Bulkhead.info(wrong) end
      assert_raise ArgumentError, fn -> Bulkhead.resize(wrong, 1) end
      assert_raise ArgumentError, fn -> Bulkhead.release(wrong) end
    end

    for wrong <- [[weight: 0], [weight: 1.0], [wait: -1], [wait: :long], [wieght: 1], :wrong] do
      assert_raise ArgumentError, fn -> Bulkhead.acquire(name, wrong) end
    end

    for wrong <- [0, -1, 1.5, :a, nil],
        do: assert_raise(ArgumentError, fn -> Bulkhead.resize(name, wrong) end)

    for wrong <- [nil, fn _ -> 1 end, :fun],
        do: assert_raise(ArgumentError, fn -> Bulkhead.run(name, wrong) end)

    assert_raise ArgumentError, fn -> Bulkhead.info(:unknown_bulkhead) end
    assert Bulkhead.info(name).in_use == 0
  end
end
