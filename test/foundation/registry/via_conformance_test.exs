import Foundation.Conformance.Registry

conformance "Via", variants: [[keys: :unique], [keys: :unique, partitions: 4]] do
  test "names a process, with and without a value", %{registry: registry} do
    {:ok, plain} = Agent.start_link(fn -> 1 end, name: {:via, Registry, {registry, :plain}})

    {:ok, valued} =
      Agent.start_link(fn -> 2 end, name: {:via, Registry, {registry, :valued, %{a: 1}}})

    assert Registry.lookup(registry, :plain) == [{plain, nil}]
    assert Registry.lookup(registry, :valued) == [{valued, %{a: 1}}]
    assert Agent.get({:via, Registry, {registry, :valued}}, & &1) == 2
    assert Agent.get({:via, Registry, {registry, :valued, :ignored}}, & &1) == 2
    assert Agent.update({:via, Registry, {registry, :plain}}, &(&1 + 10)) == :ok
    assert Agent.get(plain, & &1) == 11
  end

  test "a taken name makes start_link return already_started with its owner", %{
    registry: registry
  } do
    name = {:via, Registry, {registry, :name}}
    {:ok, agent} = Agent.start_link(fn -> 0 end, name: name)

    assert Agent.start_link(fn -> 0 end, name: name) == {:error, {:already_started, agent}}

    assert Agent.start_link(fn -> 0 end, name: {:via, Registry, {registry, :name, :value}}) ==
             {:error, {:already_started, agent}}

    assert GenServer.start(__MODULE__.Echo, nil, name: name) ==
             {:error, {:already_started, agent}}
  end

  test "a name is free again when its process ends", %{registry: registry} do
    name = {:via, Registry, {registry, :name}}

    for _round <- 1..20 do
      {:ok, agent} = Agent.start(fn -> 0 end, name: name)
      kill(agent)
      assert GenServer.whereis(name) == nil
    end

    {:ok, agent} = Agent.start(fn -> 0 end, name: name)
    :ok = Agent.stop(name)
    refute Process.alive?(agent)
    assert Registry.whereis_name({registry, :name}) == :undefined
  end

  test "calls, casts and sends reach the process", %{registry: registry} do
    name = {:via, Registry, {registry, {:server, 1}}}
    {:ok, server} = GenServer.start_link(__MODULE__.Echo, self(), name: name)

    assert GenServer.whereis(name) == server
    assert GenServer.call(name, :hello) == {:called, :hello}
    assert GenServer.cast(name, :hello) == :ok
    assert_receive {:cast, :hello}
    assert Registry.send({registry, {:server, 1}}, :hello) == :hello
    assert_receive {:info, :hello}
    assert Registry.send({registry, {:server, 1}, :value}, :again) == :again
    assert_receive {:info, :again}
  end

  test "an unregistered name: call exits, cast returns :ok, whereis returns nil", %{
    registry: registry
  } do
    name = {:via, Registry, {registry, :nobody}}
    assert GenServer.whereis(name) == nil
    assert {:noproc, {GenServer, :call, _}} = catch_exit(GenServer.call(name, :hello))
    assert GenServer.cast(name, :hello) == :ok
  end

  test "send/2 to an unregistered name exits with badarg", %{registry: registry} do
    assert :badarg == catch_badarg(fn -> Registry.send({registry, :nobody}, :hello) end)
    assert :badarg == catch_badarg(fn -> Registry.send({registry, :nobody, :value}, :hello) end)
  end

  test "the callbacks answer yes, no and :undefined", %{registry: registry} do
    assert Registry.whereis_name({registry, :name}) == :undefined
    assert Registry.whereis_name({registry, :name, :value}) == :undefined
    assert Registry.register_name({registry, :name, :value}, self()) == :yes
    assert Registry.register_name({registry, :name}, self()) == :no
    assert Registry.whereis_name({registry, :name}) == self()
    assert Registry.whereis_name({registry, :name, :other}) == self()
    assert Registry.values(registry, :name, self()) == [:value]

    worker = start_worker()
    assert run(worker, fn -> Registry.register_name({registry, :name}, worker) end) == :no

    assert Registry.unregister_name({registry, :name, :value}) == :ok
    assert Registry.whereis_name({registry, :name}) == :undefined
    assert Registry.register_name({registry, :name}, self()) == :yes
    assert Registry.lookup(registry, :name) == [{self(), nil}]
    assert Registry.unregister_name({registry, :name}) == :ok
    assert Registry.unregister_name({registry, :name}) == :ok
  end

  test "register_name/2 accepts only the caller's pid", %{registry: registry} do
    worker = start_worker()

    assert_raise FunctionClauseError, fn -> Registry.register_name({registry, :name}, worker) end

    assert_raise FunctionClauseError, fn ->
      Registry.register_name({registry, :name, :value}, worker)
    end

    assert_raise FunctionClauseError, fn ->
      apply(Registry, :register_name, [{registry, :name}, :worker])
    end

    assert Registry.lookup(registry, :name) == []
  end

  test "works with :global-style callers in Erlang", %{registry: registry} do
    name = {:via, Registry, {registry, :erlang}}
    {:ok, server} = :gen_server.start_link(name, __MODULE__.Echo, self(), [])
    assert :gen_server.call(name, :hello) == {:called, :hello}

    assert {:error, {:already_started, ^server}} =
             :gen_server.start(name, __MODULE__.Echo, nil, [])

    assert :gen_server.stop(name) == :ok
  end

  test "a supervisor restarts a named child under its name", %{registry: registry} do
    name = {:via, Registry, {registry, :child}}
    start_supervised!(%{id: :child, start: {Agent, :start_link, [fn -> 0 end, [name: name]]}})

    for _round <- 1..3 do
      [{agent, nil}] = Registry.lookup(registry, :child)
      kill(agent)
      eventually(fn -> GenServer.whereis(name) not in [nil, agent] end)
    end
  end

  test "a process that fails in init/1 leaves no name registered", %{registry: registry} do
    Process.flag(:trap_exit, true)
    name = {:via, Registry, {registry, :failing}}

    assert GenServer.start_link(__MODULE__.Echo, :stop, name: name) == {:error, :no_init}
    eventually(fn -> Registry.lookup(registry, :failing) == [] end)
    assert Registry.keys(registry, self()) == []
  end

  # Compares the raw reason, because an ArgumentError could have another cause.
  defp catch_badarg(fun) do
    fun.()
  catch
    :error, reason -> reason
  end

  defmodule Echo do
    use GenServer

    @impl true
    def init(:stop), do: {:stop, :no_init}
    def init(parent), do: {:ok, parent}

    @impl true
    def handle_call(request, _from, parent), do: {:reply, {:called, request}, parent}

    @impl true
    def handle_cast(request, parent) do
      send(parent, {:cast, request})
      {:noreply, parent}
    end

    @impl true
    def handle_info(message, parent) do
      send(parent, {:info, message})
      {:noreply, parent}
    end
  end
end
