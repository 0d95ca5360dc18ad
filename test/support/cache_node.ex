defmodule Foundation.CacheNode do
  @moduledoc """
  Nodes that run caches of one cluster. They connect only when they are told to.

  The VM of the test talks to them by their standard input, so it is none of their nodes.
  """

  import Foundation.Eventually

  alias Foundation.{Cache, Cluster, Peer}

  # A node is connected only by `connect/2`, and a lost connection disconnects no third node.
  @arguments [
    ~c"-kernel",
    ~c"dist_auto_connect",
    ~c"never",
    ~c"-kernel",
    ~c"prevent_overlapping_partitions",
    ~c"false",
    # `global` warns of connections that it may not make.
    ~c"-kernel",
    ~c"logger_level",
    ~c"error"
  ]

  @doc "Starts a node without connections that runs the application."
  @spec start() :: {pid, node}
  def start do
    {peer, node} = Peer.start(connection: :standard_io, args: @arguments)
    {:ok, _apps} = :peer.call(peer, Application, :ensure_all_started, [:foundation])
    {peer, node}
  end

  @doc "Starts a cluster and a cache of it."
  @spec start_cache({pid, node}, atom, keyword) :: :ok
  def start_cache(peer, cluster, options) do
    start_child(peer, {Cluster, name: cluster})
    start_child(peer, {Cache, Keyword.merge([cluster: cluster, max_bytes: 100_000_000], options)})
  end

  @doc "Starts a child of the application's supervisor."
  @spec start_child({pid, node}, Supervisor.child_spec() | {module, keyword}) :: :ok
  def start_child({peer, _node}, child) do
    {:ok, _pid} = :peer.call(peer, Supervisor, :start_child, [Foundation.Supervisor, child])
    :ok
  end

  @doc "Stops the cache and the cluster again."
  @spec stop({pid, node}, [atom]) :: :ok
  def stop({peer, _node}, names) do
    for name <- names,
        call <- [:terminate_child, :delete_child],
        do: :peer.call(peer, Supervisor, call, [Foundation.Supervisor, name])

    :ok
  end

  @doc "A function of `Foundation.Cache`, on a node."
  @spec on({pid, node}, atom, [term]) :: term
  def on({peer, _node}, function, arguments), do: :peer.call(peer, Cache, function, arguments)

  @doc "Fetches a key on a node, which loads `{:loaded, key}`."
  @spec load({pid, node}, atom, term) :: term
  def load(peer, cache, key), do: on(peer, :fetch, [cache, key, &__MODULE__.loaded/1])

  @doc false
  def loaded(key), do: {:ok, {:loaded, key}}

  @doc "Starts a process on a node that fetches a key, and returns when its loader runs."
  @spec fetcher({pid, node}, atom, term) :: pid
  def fetcher({peer, _node}, cache, key),
    do: :peer.call(peer, __MODULE__, :start_fetcher, [cache, key])

  @doc "Lets the loader of a fetcher return, and returns what the fetch returned."
  @spec release({pid, node}, pid, term) :: term
  def release({peer, _node}, fetcher, outcome),
    do: :peer.call(peer, __MODULE__, :release_fetcher, [fetcher, outcome])

  @doc false
  def start_fetcher(cache, key) do
    starter = self()

    fetcher =
      spawn(fn ->
        answer = Cache.fetch(cache, key, fn -> held(starter) end)
        receive do: ({:answer, pid} -> send(pid, {:fetched, self(), answer}))
      end)

    receive do: ({:loading, ^fetcher} -> fetcher)
  end

  defp held(starter) do
    send(starter, {:loading, self()})
    receive do: ({:release, outcome} -> outcome)
  end

  @doc false
  def release_fetcher(fetcher, outcome) do
    send(fetcher, {:release, outcome})
    send(fetcher, {:answer, self()})
    receive do: ({:fetched, ^fetcher, answer} -> answer)
  end

  @doc "Connects two nodes, and returns when both know it."
  @spec connect({pid, node}, {pid, node}) :: true
  def connect({one, one_node} = first, {_other, other_node} = second) do
    eventually(fn -> :peer.call(one, :net_kernel, :connect_node, [other_node]) end, 20_000)
    eventually(fn -> connected?(first, other_node) and connected?(second, one_node) end, 20_000)
  end

  @doc "Connects two nodes for the first time, and returns when their caches have greeted each other."
  @spec introduce({pid, node}, {pid, node}) :: true
  def introduce({_one, one_node} = first, {_other, other_node} = second) do
    connect(first, second)
    eventually(fn -> greeted?(first, other_node) and greeted?(second, one_node) end, 20_000)
  end

  defp greeted?({peer, _node}, other),
    do: :peer.call(peer, :sys, :get_state, [Cache.Invalidator]).nodes[other] == :known

  @doc "Disconnects two nodes, and returns when both know it."
  @spec disconnect({pid, node}, {pid, node}) :: true
  def disconnect({one, one_node} = first, {_other, other_node} = second) do
    :peer.call(one, :erlang, :disconnect_node, [other_node])

    eventually(
      fn -> not connected?(first, other_node) and not connected?(second, one_node) end,
      20_000
    )
  end

  defp connected?({peer, _node}, other), do: other in :peer.call(peer, Node, :list, [])
end
