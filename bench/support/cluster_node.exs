defmodule Bench.ClusterNode do
  @moduledoc false
  # The work of the nodes in the cluster rows. `Bench.Peers` loads this module on each of them.

  alias Foundation.Cluster

  @doc "Starts processes that each have one name; returns them."
  def names(cluster, keys),
    do: start(keys, fn key -> {:ok, _owner} = Cluster.register(cluster, key, nil) end)

  @doc "The same with `:global`."
  def global_names(keys), do: start(keys, fn key -> :yes = :global.register_name(key, self()) end)

  @doc "Starts members of a group in the cluster and in a scope of `:pg`, which count what they get."
  def members(cluster, scope, count) do
    counter = :counters.new(1, [:write_concurrency])
    :persistent_term.put({__MODULE__, scope}, counter)

    start(1..count, fn _n ->
      :ok = Cluster.join(cluster, :group)
      :ok = :pg.join(scope, :group, self())
    end)
  end

  @doc "How many messages the members of this node have got."
  def received(scope), do: :counters.get(:persistent_term.get({__MODULE__, scope}), 1)

  defp start(keys, init) do
    caller = self()
    counter = find_counter()

    pids =
      for key <- keys do
        spawn(fn ->
          init.(key)
          send(caller, {:ready, self()})
          loop(counter)
        end)
      end

    for pid <- pids, do: receive(do: ({:ready, ^pid} -> :ok))
    pids
  end

  defp find_counter do
    Enum.find_value(:persistent_term.get(), fn
      {{__MODULE__, _scope}, counter} -> counter
      _other -> nil
    end)
  end

  defp loop(counter) do
    receive do
      :counted ->
        :counters.add(counter, 1, 1)
        loop(counter)

      :stop ->
        :ok
    end
  end

  @doc "Starts a cluster that outlives the caller."
  def start_cluster(options) do
    {:ok, _pid} = Supervisor.start_child(Foundation.Supervisor, {Cluster, options})
    :ok
  end

  @doc "Stops it in order."
  def stop_cluster(name) do
    :ok = Supervisor.terminate_child(Foundation.Supervisor, name)
    :ok = Supervisor.delete_child(Foundation.Supervisor, name)
  end

  @doc "Starts a scope of `:pg` that outlives the caller."
  def start_scope(scope) do
    {:ok, _pid} = :pg.start(scope)
    :ok
  end
end
