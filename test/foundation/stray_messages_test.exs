defmodule Foundation.StrayMessagesTest do
  # Not async: sends messages to every process of the application.
  use Foundation.Case, async: false

  alias Foundation.{EventLog, Registry, Strays}

  defmodule Aggregate do
    use EventLog.Aggregate

    @impl true
    def init(_id), do: nil

    @impl true
    def handle_command(:none, _state), do: {:ok, []}

    @impl true
    def apply_event(_event, state), do: state
  end

  # Supervisors log unknown messages.
  @moduletag :capture_log

  defp processes, do: Strays.processes(Foundation.Supervisor)

  defp servers,
    do: for({_id, pid} = process <- processes(), not Strays.supervisor?(pid), do: process)

  defp assert_unharmed({id, pid}, term) do
    :sys.get_state(pid)
  catch
    :exit, reason -> flunk("#{inspect(id)} ended of #{inspect(term)}: #{inspect(reason)}")
  end

  test "every process of the application ignores messages that it does not know" do
    for process <- processes(), term <- Strays.terms() do
      send(elem(process, 1), term)
      assert_unharmed(process, term)
    end
  end

  test "every server of the application ignores casts that it does not know" do
    for process <- servers(), term <- Strays.terms() do
      GenServer.cast(elem(process, 1), term)
      assert_unharmed(process, term)
    end
  end

  defp catch_call(pid, term) do
    GenServer.call(pid, term)
  catch
    :exit, reason -> {:exit, reason}
  end

  test "every server of the application answers calls that it does not know" do
    for {id, pid} = process <- servers(), term <- [:stray, {:stray, self()}, %{}, "text", nil] do
      assert {id, catch_call(pid, term)} == {id, {:error, :unknown_call}}
      assert_unharmed(process, term)
    end
  end

  for engine <- [:native, :ets], keys <- [:unique, :duplicate] do
    test "a #{keys} registry of the #{engine} engine takes any message and keeps its entries" do
      name = unique_name("stray")
      start_supervised!({Registry, keys: unquote(keys), name: name, engine: unquote(engine)})
      {:ok, owner} = Registry.register(name, :key, 1)

      for term <- Strays.terms() do
        send(owner, term)
        GenServer.cast(owner, term)
        assert_unharmed({name, owner}, term)
      end

      assert GenServer.call(name, :stray) == {:error, :unknown_call}
      assert Registry.lookup(name, :key) == [{self(), 1}]
      assert Process.whereis(name) == owner
    end
  end

  for {module, options} <- [
        {Foundation.Bulkhead, [max: 1]},
        {Foundation.CircuitBreaker, []},
        {Foundation.RateLimiter, [limit: {1, 1_000}]}
      ],
      engine <- [:native, :ets] do
    test "a #{inspect(module)} of the #{engine} engine takes any message" do
      name = unique_name("stray")
      options = [name: name, engine: unquote(engine)] ++ unquote(options)
      assert_takes_anything(start_supervised!({unquote(module), options}))
      assert unquote(module).info(name)
    end
  end

  @tag :tmp_dir
  test "an event log, its subscription and an aggregate take any message", %{tmp_dir: dir} do
    log = unique_name("log")
    owner = start_supervised!({EventLog, name: log, dir: dir})
    {:ok, subscription} = EventLog.subscribe(log, :all, :strays)
    aggregate = start_supervised!({Aggregate, log: log, stream: "strays"})

    servers =
      for {_id, pid} <- Strays.processes(EventLog.Subscriptions), do: assert_takes_anything(pid)

    assert servers != []
    assert_takes_anything(owner)
    assert_takes_anything(aggregate)
    assert EventLog.append(log, "strays", [{:still, :there}]) == {:ok, 1}
    assert_receive {:events, ^subscription, [%{type: :still}]}, 5_000
  end

  test "every process of a cluster takes any message" do
    name = unique_name("cluster")
    cluster = start_supervised!({Foundation.Cluster, name: name})

    # OTP's own server of a scope ends at a message that it does not know.
    for {_id, pid} <- Strays.processes(cluster),
        Process.info(pid, :registered_name) != {:registered_name, Module.concat(name, Scope)},
        do: assert_takes_anything(pid)

    assert {:ok, _owner} = Foundation.Cluster.register(name, :key)
  end

  defp assert_takes_anything(pid) do
    for term <- Strays.terms() do
      send(pid, term)
      assert_unharmed({:server, pid}, term)
    end

    unless Strays.supervisor?(pid) do
      for term <- Strays.terms(), do: GenServer.cast(pid, term)
      assert {pid, catch_call(pid, :stray)} == {pid, {:error, :unknown_call}}
    end

    assert_unharmed({:server, pid}, :stray)
  end
end
