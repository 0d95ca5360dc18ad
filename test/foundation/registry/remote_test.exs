import Foundation.Conformance.Registry

# Not async: makes this VM a node, and kills a process of the application.
conformance "Remote",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate]],
  async: false do
  alias Foundation.Peer

  setup_all do
    distributed? = Node.alive?()
    :ok = Peer.distribute()
    {peer, node} = Peer.start()

    on_exit(fn -> if not distributed?, do: Peer.undistribute() end)
    %{peer: peer, node: node}
  end

  test "remote process: a process of another node is registered and found",
       %{registry: registry, node: node} = context do
    pid = Peer.spawn_on(node)
    assert node(pid) == node
    assert Registry.register_for(registry, pid, :key, {:value, pid}) == {:ok, context.owner}

    assert Registry.lookup(registry, :key) == [{pid, {:value, pid}}]
    assert Registry.values(registry, :key, pid) == [{:value, pid}]
    assert Registry.keys(registry, pid) == [:key]
    assert Registry.match(registry, :key, {:value, :_}) == [{pid, {:value, pid}}]
    assert Registry.select(registry, [{{:_, pid, :"$1"}, [], [:"$1"]}]) == [{:value, pid}]
    assert Enum.to_list(Registry.stream(registry)) == [{:key, pid, {:value, pid}}]
    assert %{size: 1, processes: 1} = Registry.info(registry)
  end

  test "remote process: can be called by its name and gets a broadcast",
       %{registry: registry, node: node} = context do
    pid = Peer.spawn_on(node)
    {:ok, _} = Registry.register_for(registry, pid, :key, nil)

    # A GenServer call as a plain message. The agent answers with its state, which is its node.
    ref = make_ref()
    question = {:get, {Function, :identity, []}}
    assert Registry.broadcast(registry, :key, {:"$gen_call", {self(), ref}, question}) == 1
    assert_receive {^ref, ^node}

    if context.options[:keys] == :unique do
      name = {:via, Registry, {registry, :key}}
      assert GenServer.whereis(name) == pid
      assert Agent.get(name, Function, :identity, []) == node
    end
  end

  test "remote process: its entries are removed when it dies", %{registry: registry, node: node} do
    [dying, staying] = for _index <- 1..2, do: Peer.spawn_on(node)

    for pid <- [dying, staying],
        key <- 1..50,
        do: {:ok, _} = Registry.register_for(registry, pid, {pid, key}, key)

    kill(dying)
    eventually(fn -> Registry.count(registry) == 50 end)
    assert Registry.keys(registry, dying) == []
    assert length(Registry.keys(registry, staying)) == 50
    for key <- 1..50, do: assert(Registry.lookup(registry, {dying, key}) == [])
  end

  test "remote process: all entries of a node are removed when the node goes down", %{
    registry: registry,
    node: node
  } do
    {peer, doomed} = Peer.start()
    staying = Peer.spawn_on(node)
    {:ok, _} = Registry.register_for(registry, staying, :stays, 1)

    for index <- 1..20,
        do:
          {:ok, _} = Registry.register_for(registry, Peer.spawn_on(doomed), {:goes, index}, index)

    assert Registry.count(registry) == 21
    Peer.stop(peer)
    eventually(fn -> Registry.count(registry) == 1 end)
    assert Registry.lookup(registry, :stays) == [{staying, 1}]
  end

  test "remote process: its entries are removed from each registry, restarted ones included",
       %{registry: registry, node: node, options: options} do
    options = Keyword.delete(options, :name)
    [other, again] = for _index <- 1..2, do: start_registry(options)
    pid = Peer.spawn_on(node)

    # More registries than the list has room for at first.
    for _round <- 1..10 do
      {:ok, _} = Registry.register_for(again, pid, :key, 1)
      :ok = stop_supervised(again)
      start_registry([name: again] ++ options)
    end

    all = [registry, other, again]
    for name <- all, do: {:ok, _} = Registry.register_for(name, pid, :key, name)
    kill(pid)
    for name <- all, do: eventually(fn -> Registry.count(name) == 0 end)
  end

  test "remote process: can unregister and register again", %{
    registry: registry,
    node: node
  } do
    pid = Peer.spawn_on(node)

    for round <- 1..5 do
      {:ok, _} = Registry.register_for(registry, pid, :key, round)
      assert Registry.lookup(registry, :key) == [{pid, round}]
      assert Registry.unregister_for(registry, pid, :key) == :ok
      assert Registry.lookup(registry, :key) == []
    end

    {:ok, _} = Registry.register_for(registry, pid, :key, :last)
    kill(pid)
    eventually(fn -> Registry.lookup(registry, :key) == [] end)
  end

  test "remote process: a registration for a dead one leaves no entry", %{
    registry: registry,
    node: node
  } do
    pid = Peer.spawn_on(node)
    kill(pid)
    assert_leaves_no_entry(registry, pid)
  end

  test "remote process: a registration on an unreachable node leaves no entry", %{
    registry: registry
  } do
    assert_leaves_no_entry(registry, foreign_pid(:"nobody@127.0.0.1", 1))
  end

  # The call may learn about the death, or the registry learns about it later.
  defp assert_leaves_no_entry(registry, dead) do
    result = Registry.register_for(registry, dead, :key, 1)
    assert match?({:ok, _owner}, result) or result == {:error, :not_alive}
    eventually(fn -> Registry.lookup(registry, :key) == [] end)
    eventually(fn -> Registry.count(registry) == 0 end)
  end

  test "remote process: is watched by the successor of a monitor that was killed", %{
    registry: registry,
    node: node
  } do
    [before, meanwhile] = for _index <- 1..2, do: Peer.spawn_on(node)
    {:ok, _} = Registry.register_for(registry, before, :before, 1)
    monitor = Process.whereis(Foundation.Registry.Monitor)
    kill(monitor)
    {:ok, _} = Registry.register_for(registry, meanwhile, :meanwhile, 1)
    eventually(fn -> Process.whereis(Foundation.Registry.Monitor) not in [nil, monitor] end)

    kill(before)
    eventually(fn -> Registry.lookup(registry, :before) == [] end)
    assert Registry.lookup(registry, :meanwhile) == [{meanwhile, 1}]
    kill(meanwhile)
    eventually(fn -> Registry.count(registry) == 0 end)
  end

  test "remote process: entries of a node that dies while the monitor is down are removed", %{
    registry: registry
  } do
    {peer, doomed} = Peer.start()

    for index <- 1..20,
        do: {:ok, _} = Registry.register_for(registry, Peer.spawn_on(doomed), index, index)

    kill(Process.whereis(Foundation.Registry.Monitor))
    Peer.stop(peer)
    eventually(fn -> Registry.count(registry) == 0 end)
    assert Registry.select(registry, [{{:_, :_, :_}, [], [true]}]) == []
  end
end
