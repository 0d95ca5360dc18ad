import Foundation.Conformance.Registry

conformance "Ensure", subjects: :ours, variants: [[keys: :unique], [keys: :unique, partitions: 4]] do
  test "ensure/3 registers the process that the function starts, and finds it afterwards", %{
    registry: registry
  } do
    test = self()

    assert {:ok, pid} =
             Registry.ensure(registry, :key, fn ->
               send(test, {:ran_in, self()})
               {:ok, start_worker()}
             end)

    assert_receive {:ran_in, ^test}
    assert Registry.lookup(registry, :key) == [{pid, nil}]
    assert Registry.ensure(registry, :key, fn -> flunk("ran") end) == {:ok, pid}
  end

  test "ensure/3 starts another process once the first is dead", %{registry: registry} do
    {:ok, first} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
    kill(first)
    assert {:ok, second} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
    assert second != first
    assert Registry.lookup(registry, :key) == [{second, nil}]
  end

  test "ensure/3 keeps the entry of a process that registered itself", %{registry: registry} do
    name = {:via, Registry, {registry, :key, :its_value}}
    start = fn -> Agent.start(fn -> 0 end, name: name) end
    assert {:ok, pid} = Registry.ensure(registry, :key, start)
    assert Registry.lookup(registry, :key) == [{pid, :its_value}]
    Agent.stop(pid)
  end

  test "ensure/3 takes {:ok, pid, info} and {:error, {:already_started, pid}} for the process", %{
    registry: registry
  } do
    worker = start_worker()
    assert Registry.ensure(registry, 1, fn -> {:ok, worker, :info} end) == {:ok, worker}
    found = fn -> {:error, {:already_started, worker}} end
    assert Registry.ensure(registry, 2, found) == {:ok, worker}
    assert Registry.lookup(registry, 2) == [{worker, nil}]
  end

  test "ensure/3 returns the function's error, and the next call runs it again", %{
    registry: registry
  } do
    assert Registry.ensure(registry, :key, fn -> {:error, :no_room} end) == {:error, :no_room}
    assert {:ok, _pid} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
  end

  test "ensure/3 returns {:error, :not_alive} for a process that is dead already", %{
    registry: registry
  } do
    dead = dead_pid()
    assert Registry.ensure(registry, :key, fn -> {:ok, dead} end) == {:error, :not_alive}
    assert Registry.lookup(registry, :key) == []
  end

  test "ensure/3 raises in its caller what the function raises, throws or exits with", %{
    registry: registry
  } do
    assert_raise RuntimeError, "oops", fn ->
      Registry.ensure(registry, :key, fn -> raise "oops" end)
    end

    assert catch_throw(Registry.ensure(registry, :key, fn -> throw(:ball) end)) == :ball
    assert catch_exit(Registry.ensure(registry, :key, fn -> exit(:out) end)) == :out
    assert {:ok, _pid} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
  end

  test "ensure/3 by 1,000 callers at once runs one function", %{registry: registry} do
    test = self()

    callers =
      for _caller <- 1..1_000 do
        spawn_link(fn ->
          start = fn ->
            send(test, {:started, self()})
            receive do: (:go -> {:ok, start_worker_of(test)})
          end

          send(test, {:answer, Registry.ensure(registry, :key, start)})
        end)
      end

    assert_receive {:started, starter}, 30_000
    for caller <- callers, caller != starter, do: await_waiting(caller)
    send(starter, :go)
    answers = for _caller <- callers, do: receive_answer()
    assert [{:ok, pid}] = Enum.uniq(answers)
    assert Registry.lookup(registry, :key) == [{pid, nil}]
    refute_received {:started, _another}
    assert flights(registry) == []
  end

  test "ensure/3 of different keys runs their functions at once", %{registry: registry} do
    {starter, _others} = hold(registry, :one, 0)
    assert {:ok, _pid} = Registry.ensure(registry, :two, fn -> {:ok, start_worker()} end)
    assert {:ok, _pid} = Registry.ensure(registry, 1, fn -> {:ok, start_worker()} end)
    assert {:ok, _pid} = Registry.ensure(registry, 1.0, fn -> {:ok, start_worker()} end)
    finish(starter, {:error, :done})
  end

  test "ensure/3 gives all that wait the error of the function", %{registry: registry} do
    {starter, _others} = hold(registry, :key, 20)
    finish(starter, {:error, :no_room})
    for _caller <- 1..21, do: assert(receive_answer() == {:error, :no_room})
    assert flights(registry) == []
  end

  test "ensure/3 gives an error to those that wait when the function raises", %{
    registry: registry
  } do
    for {failure, error} <- [
          {{:raise, "oops"}, %RuntimeError{message: "oops"}},
          {{:throw, :ball}, :ball},
          {{:exit, :out}, :out}
        ] do
      {starter, _others} = hold(registry, :key, 5)
      finish(starter, failure)
      answers = for _caller <- 1..6, do: receive_answer()
      {raised, shared} = Enum.split_with(answers, &match?({:raised, _kind, _reason}, &1))
      assert [{:raised, _kind, ^error}] = raised
      assert shared == List.duplicate({:error, error}, 5)
    end

    assert flights(registry) == []
  end

  test "ensure/3 lets the next caller start at once when the starter is killed", %{
    registry: registry
  } do
    {starter, others} = hold(registry, :key, 5)
    kill(starter)
    assert_receive {:starts, next}, 30_000
    assert next in others
    worker = start_worker()
    finish(next, {:ok, worker})
    for _caller <- 1..5, do: assert(receive_answer() == {:ok, worker})
    assert flights(registry) == []
  end

  test "ensure/3 forgets a caller that is killed while it waits", %{registry: registry} do
    {starter, others} = hold(registry, :key, 5)
    for other <- others, do: kill(other)
    eventually(fn -> length(flights(registry)) == 1 end)
    finish(starter, {:error, :done})
    assert receive_answer() == {:error, :done}
    assert flights(registry) == []
  end

  test "ensure/3 for its own key inside the function raises", %{registry: registry} do
    assert_raise ArgumentError, ~r/asks for that key itself/, fn ->
      Registry.ensure(registry, :key, fn ->
        Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
      end)
    end

    # Also by way of another key.
    assert_raise ArgumentError, ~r/asks for that key itself/, fn ->
      Registry.ensure(registry, :key, fn ->
        Registry.ensure(registry, :other, fn ->
          Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
        end)
      end)
    end

    assert {:ok, _pid} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
  end

  test "ensure/3 for another key inside the function works", %{registry: registry} do
    assert {:ok, one} =
             Registry.ensure(registry, :one, fn ->
               {:ok, _two} = Registry.ensure(registry, :two, fn -> {:ok, start_worker()} end)
               {:ok, start_worker()}
             end)

    assert [[{^one, nil}], [{_two, nil}]] = Registry.lookup_many(registry, [:one, :two])
  end

  test "ensure/3 returns the process that took the key meanwhile, and stops the started one", %{
    registry: registry
  } do
    test = self()

    assert Registry.ensure(registry, :key, fn ->
             {:ok, _owner} = Registry.register(registry, :key, :mine)
             pid = spawn_link(fn -> receive do: (:never -> :ok) end)
             send(test, {:started, pid})
             {:ok, pid}
           end) == {:ok, self()}

    assert_receive {:started, pid}
    eventually(fn -> not Process.alive?(pid) end)
    assert Registry.lookup(registry, :key) == [{self(), :mine}]
  end

  test "ensure/3 raises for any other result of the function, and tells those that wait", %{
    registry: registry
  } do
    for wrong <- [:ignore, nil, {:ok, :no_pid}, :error, {:error, 1, 2}] do
      message = ~r/^expected the function to return {:ok, pid} or {:error, reason}, got: /

      assert_raise ArgumentError, message, fn ->
        Registry.ensure(registry, :key, fn -> wrong end)
      end
    end
  end

  test "ensure/3 raises for a wrong function, an unknown registry and a name that is no atom", %{
    registry: registry
  } do
    message = ~r/^expected the function of Foundation.Registry.ensure\/3 to take no arguments/

    for wrong <- [fn _ -> 1 end, :function, nil, {IO, :puts, []}],
        do: assert_raise(ArgumentError, message, fn -> Registry.ensure(registry, :key, wrong) end)

    unknown = unique_name("unknown")
    message = "unknown registry: #{inspect(unknown)}"
    fun = fn -> flunk("ran") end
    assert_raise ArgumentError, message, fn -> Registry.ensure(unknown, :key, fun) end
    assert_raise FunctionClauseError, fn -> apply(Registry, :ensure, ["name", :key, fun]) end
  end

  @tag registry: [max_entries: 1]
  test "ensure/3 stops a process that a full registry refuses", %{registry: registry} do
    {:ok, _owner} = Registry.register(registry, :only, nil)
    worker = start_worker()
    fun = fn -> {:ok, worker} end
    assert_raise SystemLimitError, fn -> Registry.ensure(registry, :key, fun) end
    eventually(fn -> not Process.alive?(worker) end)
  end

  test "ensure/3 is independent of lock/3", %{registry: registry} do
    assert Registry.lock(registry, :key, fn ->
             {:ok, _pid} = Registry.ensure(registry, :key, fn -> {:ok, start_worker()} end)
             :inside
           end) == :inside
  end

  # Starts a caller whose function waits for `finish/2`, and so many that wait for its outcome.
  defp hold(registry, key, count) do
    starter = caller(registry, key)
    assert_receive {:starts, ^starter}, 30_000

    others = for _caller <- 1..count//1, do: caller(registry, key)
    eventually(fn -> length(flights(registry)) == count + 1 end, 30_000)
    {starter, others}
  end

  defp caller(registry, key) do
    test = self()

    spawn(fn ->
      start = fn ->
        send(test, {:starts, self()})
        receive do: ({:finish, outcome} -> act(outcome))
      end

      send(test, {:answer, attempt(fn -> Registry.ensure(registry, key, start) end)})
    end)
  end

  defp attempt(fun) do
    fun.()
  catch
    kind, reason -> {:raised, kind, reason}
  end

  defp act({:raise, message}), do: raise(message)
  defp act({:throw, value}), do: throw(value)
  defp act({:exit, reason}), do: exit(reason)
  defp act(outcome), do: outcome

  defp finish(starter, outcome), do: send(starter, {:finish, outcome})

  defp receive_answer do
    assert_receive {:answer, answer}, 30_000
    answer
  end

  defp await_waiting(pid),
    do: eventually(fn -> Process.info(pid, :status) == {:status, :waiting} end)

  # Lives as long as the test, not as long as the caller that starts it.
  defp start_worker_of(test) do
    spawn(fn ->
      ref = Process.monitor(test)
      receive do: ({:DOWN, ^ref, :process, _pid, _reason} -> :ok)
    end)
  end

  # The requests that the server of the locks knows of this registry's keys.
  defp flights(registry) do
    for {_ticket, %{lock: {Foundation.SingleFlight, ^registry, key}}} <-
          :sys.get_state(Foundation.Registry.Locks).requests,
        do: key
  end
end

conformance "EnsureDuplicate",
  subjects: :ours,
  variants: [[keys: :duplicate], [keys: {:duplicate, :key}]] do
  test "ensure/3 raises for a registry with duplicate keys", %{registry: registry} do
    message = "Foundation.Registry.ensure/3 is not supported for duplicate registries"
    fun = fn -> flunk("ran") end
    assert_raise ArgumentError, message, fn -> Registry.ensure(registry, :key, fun) end
    {:ok, _owner} = Registry.register(registry, :key, nil)
    assert_raise ArgumentError, message, fn -> Registry.ensure(registry, :key, fun) end
  end
end
