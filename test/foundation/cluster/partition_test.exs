defmodule Foundation.Cluster.PartitionTest do
  # Three nodes that this VM is not connected to: it talks to them by their standard input. So this
  # VM's `:global` cuts nothing off, and it sees each side of a partition.
  use Foundation.Case, async: true

  import Foundation.Partition

  alias Foundation.ClusterNode
  alias Foundation.Registry.Monitor

  @moduletag :capture_log

  @settle_ms 20_000

  setup_all do: %{peers: start_peers(3)}

  setup %{peers: peers} = context do
    cluster = unique_name("partition")

    options =
      [name: cluster, tables: Map.get(context, :tables, tables())] ++
        Map.get(context, :cluster, [])

    heal_all(peers)
    for {peer, _node} <- peers, do: start_cluster(peer, options)
    await_whole(peers, cluster)
    %{cluster: cluster}
  end

  for tables <- [:native, :ets], tables == :ets or Foundation.Native.library_version() != nil do
    @tag tables: tables
    test "the older of two registrations wins, and the loser is notified once (#{tables})",
         %{peers: [{a, _}, {b, node_b}, {c, _}] = peers, cluster: cluster} do
      cut(a, node_b, peers)
      eventually(fn -> node_b not in on(a, :nodes, [cluster]) end)
      [older, younger] = [member(a), member(b)]
      {:ok, _} = run(a, older, :register, [cluster, :key, :older])
      eventually(fn -> list(c, cluster) == [{:key, older, :older}] end)
      {:ok, _} = run(b, younger, :register, [cluster, :key, :younger])
      told = {:foundation_cluster, cluster, :conflict, :key, older}
      # The third node knows both, and has no part in it.
      assert list(c, cluster) == [{:key, older, :older}]
      assert inbox(b, younger) == []

      assert {:younger, :younger} =
               run(b, younger, :update_value, [cluster, :key, &Function.identity/1])

      heal(a, node_b, peers)

      for {peer, _node} <- peers,
          do: eventually(fn -> list(peer, cluster) == [{:key, older, :older}] end, @settle_ms)

      eventually(fn -> inbox(b, younger) == [told] end)
      assert inbox(a, older) == []
      assert on(b, :info, [cluster]).conflicts == 1
      assert on(a, :info, [cluster]).conflicts == 0
      # It is free once the winner lets it go.
      run(a, older, :unregister, [cluster, :key])
      eventually(fn -> on(b, :lookup, [cluster, :key]) == [] end)
      assert {:ok, _} = run(b, younger, :register, [cluster, :key, 1])
    end
  end

  @tag cluster: [on_conflict: :exit]
  test "with on_conflict: :exit the loser is killed",
       %{peers: [{a, _}, {b, node_b}, {c, _}] = peers, cluster: cluster} do
    cut(a, node_b, peers)
    eventually(fn -> node_b not in on(a, :nodes, [cluster]) end)
    [older, younger] = [member(a), member(b)]
    {:ok, _} = run(a, older, :register, [cluster, :key])
    {:ok, _} = run(b, younger, :register, [cluster, :key])
    heal(a, node_b, peers)
    eventually(fn -> not :peer.call(b, Process, :alive?, [younger]) end, @settle_ms)
    eventually(fn -> on(c, :whereis_name, [{cluster, :key}]) == older end)
    assert :peer.call(a, Process, :alive?, [older])
  end

  @tag cluster: [on_conflict: {ClusterNode, :conflict, [:given]}]
  test "with on_conflict: {m, f, a} the function is called on the loser's node",
       %{peers: [{a, _}, {b, node_b}, _] = peers, cluster: cluster} do
    cut(a, node_b, peers)
    eventually(fn -> node_b not in on(a, :nodes, [cluster]) end)
    [older, younger] = [member(a), member(b)]
    {:ok, _} = run(a, older, :register, [cluster, :key])
    {:ok, _} = run(b, younger, :register, [cluster, :key])
    heal(a, node_b, peers)
    told = {:foundation_cluster, cluster, :conflict, :key, older}
    called = {:called, node_b, [cluster, :key, younger, older, :given]}
    eventually(fn -> Enum.sort(inbox(b, younger)) == Enum.sort([told, called]) end, @settle_ms)
  end

  test "a node that is back keeps its names, though the monitor hears late of its absence",
       %{peers: [{a, _}, {b, node_b}, _] = peers, cluster: cluster} do
    pid = member(b)
    for key <- [:key, :other], do: {:ok, _} = run(b, pid, :register, [cluster, key])
    eventually(fn -> on(a, :count, [cluster]) == 2 end)
    # From now on the process is watched there.
    run(b, pid, :unregister, [cluster, :other])
    eventually(fn -> on(a, :count, [cluster]) == 1 end)
    :ok = :peer.call(a, :sys, :suspend, [Monitor])
    cut(a, node_b, peers)
    eventually(fn -> node_b not in on(a, :nodes, [cluster]) end)
    heal(a, node_b, peers)
    eventually(fn -> node_b in :peer.call(a, Node, :list, []) end)
    # Long enough for a sync, if nothing waits for the monitor.
    back? = fn -> on(a, :lookup, [cluster, :key]) == [{pid, nil}] end
    Enum.find(1..200, fn _ -> back?.() or :timer.sleep(5) != :ok end)
    :ok = :peer.call(a, :sys, :resume, [Monitor])
    await_whole(peers, cluster)
    # The monitor has handled all that it knew.
    :peer.call(a, :sys, :get_state, [Monitor])
    eventually(back?)
  end

  @rounds 4
  @steps 60
  @keys 12

  for tables <- [:native, :ets], tables == :ets or Foundation.Native.library_version() != nil do
    @tag tables: tables
    test "after each heal all nodes agree on one living owner per name (#{tables})", context do
      %{peers: peers, cluster: cluster} = context
      members = for {peer, _node} <- peers, _index <- 1..4, do: {peer, member(peer)}

      Enum.reduce(1..@rounds, {members, %{}}, fn _round, {members, model} ->
        {members, model} = Enum.reduce(1..@steps, {members, model}, &step(&1, &2, peers, cluster))
        heal_all(peers)
        await_whole(peers, cluster)
        eventually(fn -> check(peers, cluster, members, model) end, @settle_ms)
        {members, model}
      end)
    end
  end

  # The model: registrations that succeeded, by key and member, with the losses told before.
  defp step(number, {members, model}, peers, cluster) do
    {peer, member} = Enum.random(members)
    key = Enum.random(1..@keys)

    case Enum.random(1..20) do
      choice when choice <= 10 ->
        # It may have lost the name before, and found it free again.
        losses = losses(peer, member, cluster, key)

        case run(peer, member, :register, [cluster, key, number]) do
          {:ok, _owner} ->
            {members, Map.put(model, {key, member}, losses)}

          {:error, {:already_registered, _pid}} ->
            {members, model}
        end

      choice when choice <= 12 ->
        run(peer, member, :unregister, [cluster, key])
        {members, Map.delete(model, {key, member})}

      13 ->
        :peer.call(peer, Process, :exit, [member, :kill])
        eventually(fn -> not :peer.call(peer, Process, :alive?, [member]) end)
        model = for {{_key, pid}, _} = entry <- model, pid != member, into: %{}, do: entry
        {[{peer, member(peer)} | List.delete(members, {peer, member})], model}

      choice when choice <= 15 ->
        kill_one(peer, cluster)
        {members, model}

      choice ->
        {one, {_peer, other}} = Enum.random(pairs(peers))
        if choice <= 18, do: cut(one, other, peers), else: heal(one, other, peers)
        {members, model}
    end
  end

  defp check(peers, cluster, members, model) do
    [list | lists] = for {peer, _node} <- peers, do: list(peer, cluster)
    for other <- lists, do: assert(other == list)

    nodes = for {peer, member} <- members, into: %{}, do: {member, peer}

    standing =
      for {{key, member}, before} <- model,
          told = losses(nodes[member], member, cluster, key) - before,
          # Told once at most.
          assert(told in [0, 1]),
          told == 0,
          do: {key, member}

    owners = for {key, pid, _value} <- list, do: {key, pid}
    assert Enum.sort(owners) == Enum.sort(standing)
  end

  defp losses(peer, member, cluster, key) do
    Enum.count(
      inbox(peer, member),
      &match?({:foundation_cluster, ^cluster, :conflict, ^key, _}, &1)
    )
  end
end
