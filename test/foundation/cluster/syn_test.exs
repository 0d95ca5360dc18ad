# Most of this runs where the package :syn is: `ERL_LIBS=DIR mix test`, with DIR/syn/ebin.
if Code.ensure_loaded?(:syn) do
  defmodule Foundation.Cluster.SynTest do
    # Not async: the application :syn is global.
    use Foundation.Case, async: false

    alias Foundation.Cluster

    @moduletag :capture_log

    import Foundation.Partition

    alias Foundation.ClusterNode

    @settle_ms 20_000

    test "without the application :syn a start raises and says so" do
      Application.stop(:syn)

      assert_raise ArgumentError, ~r/application :syn, which is not started/, fn ->
        Cluster.start_link(name: unique_name("syn"), engine: :syn)
      end
    end

    describe "on three nodes" do
      setup do
        peers = start_peers(3)

        for {peer, _node} <- peers do
          :ok = :peer.call(peer, Logger, :configure, [[level: :error]])
          :ok = :peer.call(peer, Application, :put_env, [:syn, :event_handler, ClusterNode])
          {:ok, _} = :peer.call(peer, Application, :ensure_all_started, [:syn])
        end

        cluster = unique_name("syn")
        heal_all(peers)
        for {peer, _} <- peers, do: start_cluster(peer, name: cluster, engine: :syn)
        await_whole(peers, cluster)
        %{peers: peers, cluster: cluster}
      end

      test "names are in the scope with the cluster's name, and leave it",
           %{peers: [{a, _}, {b, _}, _], cluster: cluster} do
        pid = member(a)
        {:ok, _} = run(a, pid, :register, [cluster, :key, 1])
        eventually(fn -> match?({^pid, _stamp}, syn(b, :lookup, [cluster, :key])) end)
        assert on(a, :info, [cluster]).engine == :syn
        # Again: it is refused, and changes nothing.
        assert {:error, {:already_registered, ^pid}} = run(a, pid, :register, [cluster, :key])
        assert {^pid, _stamp} = syn(a, :lookup, [cluster, :key])
        run(a, pid, :unregister, [cluster, :key])
        eventually(fn -> syn(b, :lookup, [cluster, :key]) == :undefined end)
      end

      test "the older of two registrations wins in :syn too, and the loser lives",
           %{peers: [{a, _}, {b, node_b}, _] = peers, cluster: cluster} do
        cut(a, node_b, peers)
        eventually(fn -> node_b not in on(a, :nodes, [cluster]) end)
        [older, younger] = [member(a), member(b)]
        {:ok, _} = run(a, older, :register, [cluster, :key])

        {:ok, _} = run(b, younger, :register, [cluster, :key])
        heal(a, node_b, peers)

        for {peer, _node} <- peers do
          eventually(fn -> on(peer, :whereis_name, [{cluster, :key}]) == older end, @settle_ms)
          eventually(fn -> match?({^older, _}, syn(peer, :lookup, [cluster, :key])) end)
        end

        told = {:foundation_cluster, cluster, :conflict, :key, older}
        # The handler that was there before gets the events of clusters too.
        eventually(fn -> inbox(b, younger) == [{:syn, cluster, :key}, told] end)
        assert :peer.call(b, Process, :alive?, [younger])
      end

      test "names are claimed again after :syn has forgotten them",
           %{peers: [{a, _}, {b, _}, _], cluster: cluster} do
        pid = member(a)
        {:ok, _} = run(a, pid, :register, [cluster, :key])

        for name <- [:syn_backbone, :syn_sup] do
          killed = :peer.call(a, Process, :whereis, [name])
          :peer.call(a, Process, :exit, [killed, :kill])
          if name == :syn_sup, do: restart_syn(a)
          assert on(a, :whereis_name, [{cluster, :key}]) == pid

          eventually(
            fn ->
              match?({^pid, _}, syn(a, :lookup, [cluster, :key])) and
                match?({^pid, _}, syn(b, :lookup, [cluster, :key]))
            end,
            @settle_ms
          )
        end
      end

      test "scopes that are no cluster keep the event handler that was there",
           %{peers: [{a, _}, _, _]} do
        pid = member(a)
        syn(a, :add_node_to_scopes, [[:foreign]])
        :ok = syn(a, :register, [:foreign, :key, pid])
        eventually(fn -> inbox(a, pid) == [{:syn, :foreign, :key}] end)
      end
    end

    # The application controller hears of the end of the supervisor last.
    defp restart_syn(peer) do
      eventually(fn ->
        not List.keymember?(:peer.call(peer, Application, :started_applications, []), :syn, 0)
      end)

      {:ok, _started} = :peer.call(peer, Application, :ensure_all_started, [:syn])
    end

    defp syn(peer, function, arguments) do
      :peer.call(peer, :syn, function, arguments)
    catch
      # While it is restarted.
      :error, _reason -> :error
    end
  end
else
  defmodule Foundation.Cluster.SynTest do
    use Foundation.Case, async: true

    alias Foundation.Cluster

    test "without the package :syn a start raises and says what is missing" do
      assert_raise ArgumentError,
                   ~r/needs the package :syn: add {:syn, "~> 3.4 and >= 3.4.1"}/,
                   fn ->
                     Cluster.start_link(name: unique_name("syn"), engine: :syn)
                   end
    end
  end
end
