defmodule Foundation.ClusterDocsTest do
  use ExUnit.Case, async: true
  doctest Foundation.Cluster
end

# Where the package :syn is: `ERL_LIBS=DIR mix test`, with DIR/syn/ebin.
engines = if Code.ensure_loaded?(:syn), do: [:pg, :syn], else: [:pg]

for engine <- engines,
    tables <- [:native, :ets],
    tables == :ets or Foundation.Native.library_version() != nil do
  defmodule Module.concat([Foundation.ClusterTest, engine, tables]) do
    # Not async: this makes the VM a node.
    use Foundation.Case, async: false

    @moduletag :capture_log

    alias Foundation.{Cluster, ClusterNode, Peer}

    @tables tables
    @engine engine

    setup_all do
      distributed? = Node.alive?()
      :ok = Peer.distribute()
      nodes = for {_peer, node} <- ClusterNode.start_peers(2), do: node

      if @engine == :syn, do: for(node <- [node() | nodes], do: ClusterNode.start_syn(node))

      on_exit(fn ->
        if @engine == :syn, do: Application.stop(:syn)
        if not distributed?, do: Peer.undistribute()
      end)

      %{nodes: nodes}
    end

    setup context do
      cluster = unique_name("cluster")
      engine = Map.get(context, :engine, @engine)
      options = [name: cluster, tables: @tables, engine: engine]
      nodes = context.nodes
      start_supervised!({Cluster, options})
      supervisors = for node <- nodes, do: ClusterNode.start_cluster(node, options)
      all = Enum.sort([node() | nodes])
      for node <- all, do: eventually(fn -> up?(node, cluster, all) end)
      on_exit(fn -> for sup <- supervisors, do: stop(sup) end)
      %{cluster: cluster, all: all}
    end

    defp stop(supervisor) do
      Supervisor.stop(supervisor)
    catch
      :exit, _gone -> :ok
    end

    defp up?(node, cluster, all) do
      ClusterNode.on(node, :nodes, [cluster]) == all and
        ClusterNode.on(node, :info, [cluster]).state == :up
    end

    test "a name registered on one node is found on all nodes",
         %{cluster: cluster, nodes: [a, _b]} = c do
      pid = ClusterNode.register(a, cluster, :key, {:value, 1})

      for node <- c.all do
        eventually(fn ->
          ClusterNode.on(node, :lookup, [cluster, :key]) == [{pid, {:value, 1}}]
        end)

        assert ClusterNode.on(node, :fetch, [cluster, :key]) == {:ok, pid, {:value, 1}}
        assert ClusterNode.on(node, :whereis_name, [{cluster, :key}]) == pid
        assert ClusterNode.on(node, :fetch, [cluster, :other]) == :error
      end

      assert {:error, {:already_registered, ^pid}} = Cluster.register(cluster, :key, 2)
      assert ClusterNode.inbox(pid) == []
      assert GenServer.call({:via, Cluster, {cluster, :key}}, :inbox) == []

      assert {[:value, 1], {:value, 1}} =
               ClusterNode.run(pid, :update_value, [cluster, :key, &Tuple.to_list/1])

      eventually(fn -> Cluster.lookup(cluster, :key) == [{pid, [:value, 1]}] end)
      ClusterNode.run(pid, :unregister, [cluster, :key])

      for node <- c.all,
          do: eventually(fn -> ClusterNode.on(node, :lookup, [cluster, :key]) == [] end)
    end

    test "each of 10,000 races of three nodes has one winner, and each loser is notified once",
         %{cluster: cluster} = context do
      members = for node <- context.all, do: {node, ClusterNode.member(node)}
      keys = 1..10_000

      got =
        for {_node, member} <- members do
          Task.async(fn -> ClusterNode.register_all(member, cluster, keys) end)
        end
        |> Task.await_many(60_000)
        |> Enum.sum()

      eventually(
        fn ->
          [list | others] =
            for node <- context.all, do: :erpc.call(node, ClusterNode, :list, [cluster])

          conflicts =
            for node <- context.all, do: ClusterNode.on(node, :info, [cluster]).conflicts

          told = for {_node, member} <- members, do: length(ClusterNode.inbox(member))
          assert length(list) == 10_000
          for other <- others, do: assert(other == list)
          assert Enum.sum(conflicts) == got - 10_000

          assert told == conflicts
        end,
        30_000
      )
    end

    @tag engine: :global
    test "with :global one of several nodes gets a name, and a process has one name",
         %{cluster: cluster, nodes: [a, b]} = context do
      members = for node <- context.all, do: ClusterNode.member(node)

      results =
        members
        |> Enum.map(&Task.async(fn -> ClusterNode.run(&1, :register, [cluster, :key]) end))
        |> Task.await_many(30_000)

      assert [winner] = for({member, {:ok, _}} <- Enum.zip(members, results), do: member)
      [loser | _] = members -- [winner]
      # As soon as the call has returned, also where the replica is behind.
      assert {:error, {:already_registered, ^winner}} =
               ClusterNode.run(loser, :register, [cluster, :key])

      assert {:error, {:already_registered, ^winner}} =
               ClusterNode.run(winner, :register, [cluster, :other])

      for {from, to} <- List.duplicate({winner, loser}, 5) do
        :ok = ClusterNode.run(from, :unregister, [cluster, :key])
        assert {:ok, _} = ClusterNode.run(to, :register, [cluster, :key])
        :ok = ClusterNode.run(to, :unregister, [cluster, :key])
        assert {:ok, _} = ClusterNode.run(from, :register, [cluster, :key])
      end

      for node <- [a, b],
          do:
            eventually(fn -> ClusterNode.on(node, :whereis_name, [{cluster, :key}]) == winner end)
    end

    test "the names of a process are removed when it dies", %{cluster: cluster, nodes: [a, b]} do
      pid = ClusterNode.register(a, cluster, :key)
      ClusterNode.run(pid, :register, [cluster, :other])
      ClusterNode.run(pid, :join, [cluster, :group, 1])
      eventually(fn -> ClusterNode.on(b, :count, [cluster]) == 2 end)
      eventually(fn -> ClusterNode.on(b, :members, [cluster, :group]) == [{pid, 1}] end)
      Process.exit(pid, :kill)

      for node <- [node(), a, b],
          do: eventually(fn -> ClusterNode.on(node, :count, [cluster]) == 0 end)

      eventually(fn -> ClusterNode.on(b, :members, [cluster, :group]) == [] end)
    end

    test "joining again replaces the value, and a broadcast reaches each member once",
         %{cluster: cluster, nodes: [a, b]} = context do
      members = for node <- [node(), a, a, b], do: ClusterNode.member(node)
      for member <- members, do: ClusterNode.run(member, :join, [cluster, :group, 1])
      for member <- members, do: ClusterNode.run(member, :join, [cluster, :group, 2])
      expected = Enum.sort(for member <- members, do: {member, 2})

      for node <- context.all do
        eventually(fn ->
          Enum.sort(ClusterNode.on(node, :members, [cluster, :group])) == expected
        end)

        assert ClusterNode.on(node, :info, [cluster]).groups == 1
      end

      for number <- 1..3, do: Cluster.broadcast(cluster, :group, number)
      for member <- members, do: eventually(fn -> ClusterNode.inbox(member) == [1, 2, 3] end)
      ClusterNode.run(hd(members), :leave, [cluster, :group])
      eventually(fn -> length(ClusterNode.on(b, :members, [cluster, :group])) == 3 end)
    end

    test "concurrent ensure calls on all nodes start one process per key",
         %{cluster: cluster} = context do
      keys = 1..1_000
      mfa = {GenServer, :start, [ClusterNode, nil]}

      pids =
        for node <- context.all, keys <- Enum.chunk_every(keys, 50) do
          Task.async(fn ->
            for key <- keys, do: {key, ClusterNode.on(node, :ensure, [cluster, key, mfa])}
          end)
        end
        |> Task.await_many(120_000)
        |> Enum.concat()

      by_key = Enum.group_by(pids, &elem(&1, 0), fn {_key, {:ok, pid}} -> pid end)

      for {key, pids} <- by_key do
        assert [pid] = Enum.uniq(pids)
        assert node(pid) == Cluster.home(cluster, key)
      end

      for pid <- Enum.uniq(List.flatten(Map.values(by_key))), do: Process.exit(pid, :kill)
    end

    test "a draining node refuses registrations and is no key's home node",
         %{cluster: cluster, nodes: [a, b]} do
      pid = ClusterNode.register(a, cluster, :stays)
      task = Task.async(fn -> ClusterNode.on(a, :drain, [cluster]) end)
      eventually(fn -> ClusterNode.on(a, :info, [cluster]).state == :draining end)

      assert ClusterNode.run(ClusterNode.member(a), :register, [cluster, :new]) ==
               {:error, :draining}

      assert ClusterNode.on(a, :fetch, [cluster, :new]) == {:error, {:unknown, :draining}}
      eventually(fn -> Enum.all?(1..50, &(ClusterNode.on(b, :home, [cluster, &1]) != a)) end)
      assert Cluster.whereis_name({cluster, :stays}) == pid
      Process.exit(pid, :kill)
      assert Task.await(task, 30_000) == :ok
      assert ClusterNode.on(a, :info, [cluster]).state == :draining
    end

    test "an orderly stop removes the node and its names at once", %{
      cluster: cluster,
      nodes: [a, _b]
    } do
      for engine <- Enum.uniq([@engine, :global]) do
        second = :"#{cluster}_#{engine}"
        options = [name: second, tables: @tables, engine: engine]
        supervisor = ClusterNode.start_cluster(a, options)
        start_supervised!({Cluster, options})
        eventually(fn -> Cluster.nodes(second) == Enum.sort([node(), a]) end)
        pid = ClusterNode.register(a, second, :key)
        eventually(fn -> Cluster.count(second) == 1 end)
        Supervisor.stop(supervisor)
        eventually(fn -> Cluster.nodes(second) == [node()] end)
        assert Cluster.count(second) == 0

        assert_raise ErlangError, ~r/unknown cluster/, fn ->
          ClusterNode.on(a, :nodes, [second])
        end

        # The process lives on, and its name is free.
        member = ClusterNode.member(node())
        eventually(fn -> match?({:ok, _}, ClusterNode.run(member, :register, [second, :key])) end)
        assert :erpc.call(a, Process, :alive?, [pid])
      end
    end

    test "a second start, an unknown option and an unknown cluster are errors", %{
      cluster: cluster
    } do
      {:error, {:already_started, pid}} = Cluster.start_link(name: cluster)
      assert Process.alive?(pid)

      assert_raise ArgumentError, ~r/did you mean :on_conflict/, fn ->
        Cluster.start_link(name: :a, on_conflct: 1)
      end

      for call <- [
            &Cluster.lookup(&1, 1),
            &Cluster.fetch(&1, 1),
            &Cluster.register(&1, 1),
            &Cluster.join(&1, 1),
            &Cluster.members(&1, 1),
            &Cluster.whereis_name({&1, 1}),
            &Cluster.count/1,
            &Cluster.info/1,
            &Cluster.stream/1,
            &Cluster.nodes/1,
            &Cluster.drain/1,
            &Cluster.home(&1, 1)
          ],
          name <- [:nobody, "nobody"],
          do: assert_raise(ArgumentError, ~r/unknown cluster: /, fn -> call.(name) end)
    end

    test "killing the processes of the cluster loses no name of this node", %{
      cluster: cluster,
      nodes: [a, b]
    } do
      {:ok, _} = Cluster.register(cluster, :mine, 1)
      :ok = Cluster.join(cluster, :group, 1)
      there = ClusterNode.register(a, cluster, :theirs, 2)
      eventually(fn -> Cluster.whereis_name({cluster, :theirs}) == there end)
      {:error, {:already_started, supervisor}} = Cluster.start_link(name: cluster)

      for _round <- 1..3,
          {_id, pid, _type, _modules} <- Enum.shuffle(Supervisor.which_children(supervisor)) do
        if is_pid(pid), do: kill(pid)
        eventually(fn -> Cluster.lookup(cluster, :mine) == [{self(), 1}] end)
      end

      kill(supervisor)
      eventually(fn -> Cluster.lookup(cluster, :mine) == [{self(), 1}] end)
      eventually(fn -> Cluster.info(cluster).state == :up end)
      assert Cluster.members(cluster, :group) == [{self(), 1}]
      eventually(fn -> Cluster.lookup(cluster, :theirs) == [{there, 2}] end)
      eventually(fn -> ClusterNode.on(b, :lookup, [cluster, :mine]) == [{self(), 1}] end)

      eventually(
        fn -> ClusterNode.on(b, :members, [cluster, :group]) == [{self(), 1}] end,
        15_000
      )

      {:ok, _} = Cluster.register(cluster, :later, 1)
      eventually(fn -> ClusterNode.on(b, :lookup, [cluster, :later]) == [{self(), 1}] end)
    end
  end
end
