defmodule Foundation.RegistryEnsureFaultTest do
  # Not async: kills the lock server, which the whole application shares.
  use Foundation.Case, async: false

  alias Foundation.{Load, Registry, RegistrySupervisor, SingleFlight, Timeout}
  alias Foundation.Registry.Locks

  @kills 100

  for engine <- [:native, :ets] do
    describe "#{engine}:" do
      setup do
        name = unique_name("ensure")
        start_supervised!({Registry, keys: :unique, name: name, engine: unquote(engine)})
        %{registry: name}
      end

      # Each key's function runs once, although the server of the queue is killed all the time.
      test "ensure/3 starts one process for each key while the lock server is killed", %{
        registry: registry
      } do
        starts = :ets.new(:starts, [:public, write_concurrency: true])
        test = self()

        # All ask for the same keys, in the same order.
        step = fn last ->
          key = (last || 0) + 1
          {:ok, pid} = Registry.ensure(registry, key, fn -> start(starts, key, test) end)
          assert Registry.lookup(registry, key) == [{pid, nil}]
          key
        end

        load = Load.start(List.duplicate(step, 4))

        for _kill <- 1..@kills do
          Load.progress(load, 2)
          kill_locks()
        end

        Load.stop(load)
        for {_key, count} <- :ets.tab2list(starts), do: assert(count == 1)
        assert :ets.info(starts, :size) > 0
        eventually(fn -> rows(registry) == [] end)
      end

      test "an error reaches those that have not asked the new lock server yet", %{
        registry: registry
      } do
        {starter, others} = hold(registry, 5)
        :ok = Supervisor.terminate_child(RegistrySupervisor, Locks)
        # They ask again only after the starter's outcome is known.
        for other <- others, do: :erlang.suspend_process(other)
        {:ok, _pid} = Supervisor.restart_child(RegistrySupervisor, Locks)
        send(starter, {:finish, {:error, :no_room}})
        assert receive_answer() == {:error, :no_room}

        # And then the server of which they do not know yet is another.
        kill_locks()
        for other <- others, do: :erlang.resume_process(other)
        for _other <- others, do: assert(receive_answer() == {:error, :no_room})
        refute_received {:starts, _again}
        eventually(fn -> rows(registry) == [] end)
      end

      test "a waiter killed before it asks the new lock server leaves no row", %{
        registry: registry
      } do
        {starter, [other]} = hold(registry, 1)
        :ok = Supervisor.terminate_child(RegistrySupervisor, Locks)
        :erlang.suspend_process(other)
        {:ok, _pid} = Supervisor.restart_child(RegistrySupervisor, Locks)
        send(starter, {:finish, {:error, :no_room}})
        assert receive_answer() == {:error, :no_room}
        assert [[{:outcome, {:error, :no_room}}]] = rows(registry)
        # The next server has to know of it too.
        kill_locks()
        kill(other)
        eventually(fn -> rows(registry) == [] end)
      end

      test "a starter killed while the lock server is away leaves its place to the next", %{
        registry: registry
      } do
        {starter, others} = hold(registry, 3)
        :ok = Supervisor.terminate_child(RegistrySupervisor, Locks)
        kill(starter)
        {:ok, _pid} = Supervisor.restart_child(RegistrySupervisor, Locks)
        assert_receive {:starts, next}, 30_000
        assert next in others
        send(next, {:finish, {:error, :done}})
        for _other <- others, do: assert(receive_answer() == {:error, :done})
      end

      test "a wait of lock/4 ends in time, or with the lock, after kills of the lock server", %{
        registry: registry
      } do
        test = self()

        holder =
          spawn_link(fn ->
            Registry.lock(registry, :key, fn ->
              send(test, :holding)
              receive do: (:release -> :ok)
            end)
          end)

        assert_receive :holding, 30_000
        short = Task.async(fn -> attempt(registry, 300) end)
        long = Task.async(fn -> attempt(registry, 600_000) end)
        eventually(fn -> queued(registry, :key) == 3 end)
        kill_locks()
        assert Task.await(short, 60_000) == :timeout
        kill_locks()
        send(holder, :release)
        assert Task.await(long, 60_000) == :locked
        eventually(fn -> :ets.match(Locks, {:_, {registry, :_}, :_, :_}) == [] end)
      end
    end
  end

  defp attempt(registry, timeout) do
    Registry.lock(registry, :key, fn -> :locked end, timeout)
  rescue
    Timeout -> :timeout
  end

  # The process ends with the test.
  defp start(starts, key, test) do
    :ets.update_counter(starts, key, 1, {key, 0})

    pid =
      spawn(fn ->
        ref = Process.monitor(test)
        receive do: ({:DOWN, ^ref, :process, _pid, _reason} -> :ok)
      end)

    {:ok, pid}
  end

  defp hold(registry, count) do
    starter = caller(registry)
    assert_receive {:starts, ^starter}, 30_000
    others = for _other <- 1..count, do: caller(registry)
    eventually(fn -> length(rows(registry)) == count + 1 end, 30_000)
    {starter, others}
  end

  defp caller(registry) do
    test = self()

    spawn(fn ->
      start = fn ->
        send(test, {:starts, self()})
        receive do: ({:finish, outcome} -> outcome)
      end

      send(test, {:answer, Registry.ensure(registry, :key, start)})
    end)
  end

  defp receive_answer do
    assert_receive {:answer, answer}, 30_000
    answer
  end

  defp kill_locks do
    pid = eventually(fn -> Process.whereis(Locks) end)
    kill(pid)
    eventually(fn -> Process.whereis(Locks) not in [nil, pid] end)
  end

  defp rows(registry), do: :ets.match(Locks, {:_, {SingleFlight, registry, :_}, :_, :"$1"})
end
