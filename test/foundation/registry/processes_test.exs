defmodule Foundation.Registry.ProcessesTest do
  import Foundation.Conformance.Registry

  # Not async: kills processes that the whole application shares.
  conformance "Processes",
    subjects: :ours,
    async: false,
    variants: [[keys: :unique], [keys: :duplicate]] do
    alias Foundation.Registry.{Cleanup, Locks, Monitor, TableHolder}

    defp kill_named(name) do
      pid = Process.whereis(name)
      kill(pid)
      eventually(fn -> match?(new when is_pid(new) and new != pid, Process.whereis(name)) end)
    end

    # Starts `count` processes that register one key each.
    defp registrants(registry, count) do
      for n <- 1..count do
        worker = start_worker()
        {:ok, _owner} = run(worker, fn -> Registry.register(registry, {:key, worker}, n) end)
        worker
      end
    end

    test "registrants from before a kill of the monitor are cleaned up after it", %{
      registry: registry
    } do
      workers = registrants(registry, 50)
      kill_named(Monitor)
      for worker <- workers, do: kill(worker)
      eventually(fn -> Registry.count(registry) == 0 end)
    end

    test "registrants that die while the monitor is down are cleaned up", %{registry: registry} do
      workers = registrants(registry, 50)
      :ok = Supervisor.terminate_child(Foundation.RegistrySupervisor, Monitor)
      late = registrants(registry, 50)
      for worker <- workers ++ late, do: kill(worker)
      assert Registry.lookup(registry, {:key, hd(workers)}) == []
      {:ok, _pid} = Supervisor.restart_child(Foundation.RegistrySupervisor, Monitor)
      eventually(fn -> Registry.count(registry) == 0 end)
    end

    test "entries survive a kill of the tables' holder and then one of the owner",
         %{
           registry: registry,
           owner: owner
         } do
      {:ok, _owner} = Registry.register(registry, "key", 1)
      kill_named(TableHolder)
      assert Registry.lookup(registry, "key") == [{self(), 1}]
      # Once the owner answers, it has found the new holder.
      eventually(fn -> heir_known?(registry) end)
      :sys.get_state(owner)
      kill(owner)
      eventually(fn -> Process.whereis(registry) not in [nil, owner] end)
      assert Registry.lookup(registry, "key") == [{self(), 1}]
    end

    defp heir_known?(registry) do
      case Foundation.Registry.Backends.ETS.Table.fetch(registry) do
        {:ok, table} -> :ets.info(table.entries, :heir) == Process.whereis(TableHolder)
        # The native engine needs no heir.
        :error -> true
      end
    end

    # The agents' owner logs that its parent was killed.
    @tag :capture_log
    test "a table survives a kill of the registry's supervisor", %{registry: registry} do
      workers = registrants(registry, 20)
      kill_named(Foundation.RegistrySupervisor)

      eventually(fn ->
        Foundation.HealthCheck.check_registry().processes |> Map.values() |> Enum.all?()
      end)

      eventually(fn -> known?(registry) end)
      assert Registry.count(registry) == 20
      for worker <- workers, do: kill(worker)
      eventually(fn -> Registry.count(registry) == 0 end)
      eventually(fn -> Process.whereis(:foundation_agent_registry) end)
    end

    defp known?(registry) do
      Registry.count(registry) >= 0
    rescue
      ArgumentError -> false
    end

    test "each killed process restarts, and the registry works", %{registry: registry} do
      for name <- [TableHolder, Cleanup, Monitor, Locks], do: kill_named(name)

      assert {:ok, _owner} = Registry.register(registry, "key", 1)
      assert Registry.lock(registry, :lock, fn -> :locked end) == :locked
      [worker] = registrants(registry, 1)
      kill(worker)
      eventually(fn -> Registry.count(registry) == 1 end)
      assert %{table_exists: true, owner_alive: true} = Foundation.HealthCheck.check_registry()
    end

    test "a kill of the lock server keeps a lock's holder and its queue order", %{
      registry: registry
    } do
      test = self()

      [holder | waiting] =
        for n <- 1..4 do
          pid =
            spawn_link(fn ->
              Registry.lock(registry, :key, fn ->
                send(test, {:locked, n})
                receive do: (:go -> :ok)
              end)
            end)

          # Each caller is in the queue before the next one starts.
          eventually(fn -> queued(registry, :key) == n end)
          pid
        end

      assert_receive {:locked, 1}
      kill_named(Locks)
      send(holder, :go)

      for {pid, n} <- Enum.with_index(waiting, 2) do
        assert_receive {:locked, locked}
        assert locked == n
        send(pid, :go)
      end

      eventually(fn -> queued(registry, :key) == 0 end)
    end

    @tag :capture_log
    test "a kill of the registry's supervisor keeps a lock's holder", %{
      registry: registry
    } do
      test = self()

      holder =
        spawn_link(fn ->
          Registry.lock(registry, :key, fn ->
            send(test, :locked)
            receive do: (:go -> send(test, :done))
          end)
        end)

      assert_receive :locked
      kill_named(Foundation.RegistrySupervisor)
      eventually(fn -> Process.whereis(:foundation_agent_registry) && Process.whereis(Locks) end)
      eventually(fn -> known?(registry) end)

      waiter = spawn_link(fn -> Registry.lock(registry, :key, fn -> send(test, :waited) end) end)
      eventually(fn -> queued(registry, :key) == 2 end)
      assert Process.alive?(waiter)
      refute_received :waited

      send(holder, :go)
      assert_receive :done
      assert_receive :waited
    end

    test "after a kill of the lock server a held lock is granted to no other caller", %{
      registry: registry
    } do
      test = self()

      holder =
        spawn_link(fn ->
          Registry.lock(registry, :key, fn ->
            send(test, :locked)
            receive do: (:go -> :ok)
          end)
        end)

      assert_receive :locked
      kill_named(Locks)
      waiter = Task.async(fn -> Registry.lock(registry, :key, fn -> :mine end) end)
      assert Task.yield(waiter, 50) == nil
      send(holder, :go)
      assert Task.await(waiter, 30_000) == :mine
    end

    # Some callers die before they ask, some while they wait, and some with the lock.
    test "callers killed at any moment leave no lock behind", %{registry: registry} do
      for n <- 1..5_000 do
        pid = spawn(fn -> Registry.lock(registry, rem(n, 3), fn -> :erlang.yield() end) end)
        :erlang.yield()
        Process.exit(pid, :kill)
      end

      rows = fn -> :ets.match(Locks, {:_, {registry, :_}, :_, :_}) end
      eventually(fn -> rows.() == [] end)
      assert Registry.lock(registry, 0, fn -> :locked end) == :locked
    end

    # A row of a caller that the server does not monitor would never be removed.
    test "a caller has no row before the lock server watches it", %{registry: registry} do
      rows = fn -> :ets.match(Locks, {:_, {registry, :_}, :_, :_}) end
      server = Process.whereis(Locks)
      :ok = :sys.suspend(server)
      caller = spawn(fn -> Registry.lock(registry, :key, fn -> Process.sleep(:infinity) end) end)
      eventually(fn -> Process.info(server, :message_queue_len) == {:message_queue_len, 1} end)
      assert rows.() == []
      :ok = :sys.resume(server)
      eventually(fn -> length(rows.()) == 1 end)
      kill(caller)
      eventually(fn -> rows.() == [] end)
    end

    test "a lock whose holder dies while the lock server is down becomes free", %{
      registry: registry
    } do
      test = self()
      worker = start_worker()

      send(
        worker,
        {:run, test, make_ref(),
         fn ->
           Registry.lock(registry, :key, fn ->
             send(test, :locked)
             receive do: (:never -> :ok)
           end)
         end}
      )

      assert_receive :locked

      :ok = Supervisor.terminate_child(Foundation.RegistrySupervisor, Locks)
      kill(worker)
      {:ok, _pid} = Supervisor.restart_child(Foundation.RegistrySupervisor, Locks)
      assert Registry.lock(registry, :key, fn -> :mine end) == :mine
    end
  end
end
