for tables <- [:native, :ets], tables == :ets or Foundation.Native.library_version() != nil do
  defmodule Module.concat(Foundation.Cluster.CrashTest, tables) do
    # Processes of the cluster die while it works. Not async: this makes the VM a node.
    use Foundation.Case, async: false

    alias Foundation.{Cluster, ClusterNode, Peer}

    @moduletag :capture_log

    @tables tables
    @settle_ms 30_000
    @area [nil, Groups, Scope, Fanout, Ensure, Replicator]

    setup_all do
      distributed? = Node.alive?()
      :ok = Peer.distribute()
      nodes = for {_peer, node} <- ClusterNode.start_peers(2), do: node
      on_exit(fn -> if not distributed?, do: Peer.undistribute() end)
      %{nodes: nodes}
    end

    setup %{nodes: nodes} do
      cluster = unique_name("crash")
      options = [name: cluster, tables: @tables]
      supervisors = for node <- [node() | nodes], do: ClusterNode.start_cluster(node, options)
      all = Enum.sort([node() | nodes])
      await_whole(all, cluster)
      on_exit(fn -> for sup <- supervisors, do: Process.exit(sup, :kill) end)
      %{cluster: cluster, all: all, above: hd(supervisors)}
    end

    defp await_whole(all, cluster) do
      for node <- all do
        eventually(
          fn ->
            ClusterNode.on(node, :nodes, [cluster]) == all and
              ClusterNode.on(node, :info, [cluster]).state == :up
          end,
          @settle_ms
        )
      end
    end

    defp named(cluster, nil), do: cluster
    defp named(cluster, process), do: Module.concat(cluster, process)

    # It may have been killed just before, and not be back yet.
    defp kill_named(name), do: kill(eventually(fn -> Process.whereis(name) end, @settle_ms))

    defp permutations([]), do: [[]]

    defp permutations(list),
      do: for(one <- list, rest <- permutations(list -- [one]), do: [one | rest])

    # The native engine answers throughout; the other one may refuse while its tables change hands.
    if @tables == :native do
      defp lookup(cluster, key), do: Cluster.lookup(cluster, key)
      defp change(fun), do: fun.()
    else
      defp lookup(cluster, key), do: change(fn -> Cluster.lookup(cluster, key) end)

      defp change(fun) do
        fun.()
      rescue
        ArgumentError -> change(fun)
      end
    end

    # Registers and unregisters names, and keeps one, which it looks up all the time.
    defp worker(cluster, index) do
      Task.async(fn ->
        {:ok, _owner} = Cluster.register(cluster, {:kept, index}, index)
        :ok = Cluster.join(cluster, :group, index)
        work(cluster, index, 0)
      end)
    end

    defp work(cluster, index, n) do
      assert lookup(cluster, {:kept, index}) == [{self(), index}]
      # The second time it may be there already.
      change(fn -> Cluster.register(cluster, {:changing, index}, n) end)
      assert lookup(cluster, {:changing, index}) == [{self(), n}]
      change(fn -> Cluster.unregister(cluster, {:changing, index}) end)

      receive do
        :stop -> n
      after
        1 -> work(cluster, index, n + 1)
      end
    end

    test "killing each process of the area in each order under load loses no local name",
         context do
      %{cluster: cluster, all: all} = context
      workers = for index <- 1..4, do: worker(cluster, index)
      expected = Enum.sort(for %{pid: pid} = _task <- workers, do: pid)

      for {order, number} <- Enum.with_index(permutations(@area)), rem(number, 6) == 0 do
        for process <- order, do: kill_named(named(cluster, process))
      end

      kill_named(named(cluster, Supervisor))
      assert Enum.all?(workers, &Process.alive?(&1.pid))
      await_whole(all, cluster)

      for node <- all do
        eventually(
          fn ->
            names =
              for {{:kept, _}, pid, _} <- :erpc.call(node, ClusterNode, :list, [cluster]), do: pid

            members = for {pid, _} <- ClusterNode.on(node, :members, [cluster, :group]), do: pid
            assert Enum.sort(names) == expected
            assert Enum.sort(members) == expected
          end,
          @settle_ms
        )
      end

      for %{pid: pid} <- workers, do: send(pid, :stop)
      Task.await_many(workers, @settle_ms)
    end

    test "killing a supervisor further up loses nothing",
         %{cluster: cluster, all: all} = context do
      {:ok, _owner} = Cluster.register(cluster, :mine, 1)
      :ok = Cluster.join(cluster, :group, 1)
      [_here, there | _] = [node() | all -- [node()]]
      theirs = ClusterNode.register(there, cluster, :theirs, 2)
      eventually(fn -> Cluster.whereis_name({cluster, :theirs}) == theirs end)
      # Its children get `:shutdown`, as in an orderly stop.
      kill(context.above)
      assert lookup(cluster, :mine) == [{self(), 1}]
      ClusterNode.start_cluster(node(), name: cluster, tables: @tables)
      assert lookup(cluster, :mine) == [{self(), 1}]
      await_whole(all, cluster)
      eventually(fn -> Cluster.lookup(cluster, :theirs) == [{theirs, 2}] end)

      for node <- all do
        eventually(
          fn -> ClusterNode.on(node, :lookup, [cluster, :mine]) == [{self(), 1}] end,
          @settle_ms
        )

        eventually(
          fn -> ClusterNode.on(node, :members, [cluster, :group]) == [{self(), 1}] end,
          @settle_ms
        )
      end
    end

    test "each loser is told once though the replicators are killed meanwhile",
         %{cluster: cluster, all: all} do
      members = for node <- all, do: {node, ClusterNode.member(node)}
      keys = 1..3_000

      killers =
        for node <- all do
          Node.spawn(node, ClusterNode, :kill_repeatedly, [Module.concat(cluster, Replicator), 20])
        end

      got =
        members
        |> Enum.map(fn {_node, member} ->
          Task.async(fn -> ClusterNode.register_all(member, cluster, keys) end)
        end)
        |> Task.await_many(60_000)
        |> Enum.sum()

      for killer <- killers, do: Process.exit(killer, :kill)

      eventually(
        fn ->
          [list | others] = for node <- all, do: :erpc.call(node, ClusterNode, :list, [cluster])
          conflicts = for node <- all, do: ClusterNode.on(node, :info, [cluster]).conflicts
          told = for {_node, member} <- members, do: length(ClusterNode.inbox(member))
          assert length(list) == Enum.count(keys)
          for other <- others, do: assert(other == list)
          assert Enum.sum(conflicts) == got - Enum.count(keys)
          assert told == conflicts
        end,
        @settle_ms
      )
    end
  end
end
