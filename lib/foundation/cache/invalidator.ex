defmodule Foundation.Cache.Invalidator do
  @moduledoc false
  # Invalidates on other nodes what is written here, and here what is written on other nodes, for
  # all caches with `:cluster`. One process for each node.
  #
  #     {:invalidate, cluster, cache, {:delete, key} | :clear | :expire}
  #     {:hello, node, [{cluster, cache}]}    which caches of that node have ever invalidated
  #     anything
  #
  # The caller of a write sends to all connected nodes. A node without such a cache, or with one of
  # another cluster, ignores it. A message may get lost with a connection. So at a reconnect each of
  # the two nodes expires what it has.
  #
  # A node that connects for the first time has missed nothing that was written here while it was
  # away, unless its cache is older than the connection. But this node has missed its writes.
  # The greeting says whether there was anything, so that a node that has just been started expires
  # nothing on the others.
  #
  # A new process has missed what its predecessor did not handle, and expires what there is.

  use GenServer

  alias Foundation.Cache.{Cells, Engines, Instance}

  @retry_ms 100

  # `nodes`: the nodes that have ever been connected, each with one of these states.
  #   * `:up`: it is connected for the first time, and has not greeted.
  #   * `:greeted`: its greeting came before the news of the connection.
  #   * `:known`: both have come.
  # `behind`: the caches that a node must expire, because its connection was busy.
  defstruct nodes: %{}, behind: MapSet.new()

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Invalidates on the other nodes what was written to a cache here. In the caller."
  @spec announce(Instance.config(), {:delete, term} | :clear) :: :ok
  def announce(%{cluster: nil}, _what), do: :ok

  def announce(%{cluster: cluster, name: cache}, what) do
    # Before the nodes are read: one that connects after that learns it from the greeting.
    wrote(cache)
    for node <- Node.list(), do: tell(node, cluster, cache, what)
    :ok
  end

  defp wrote(cache) do
    cells = Instance.cells(cache)
    if cells && Cells.get(cells, :wrote) == 0, do: Cells.put(cells, :wrote, 1)
  end

  # A write does not wait for a slow node, so that node gets no keys, and expires all of the cache.
  defp tell(node, cluster, cache, what) do
    if transmit(node, {:invalidate, cluster, cache, what}) == :nosuspend,
      do: GenServer.cast(__MODULE__, {:behind, node, cluster, cache})
  end

  defp transmit(node, message),
    do: :erlang.send({__MODULE__, node}, message, [:noconnect, :nosuspend])

  @impl true
  def init(nil) do
    :ok = :net_kernel.monitor_nodes(true)
    expire_all()
    nodes = Node.list()
    for node <- nodes, do: greet(node)
    {:ok, %__MODULE__{nodes: Map.new(nodes, &{&1, :known})}}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:behind, node, cluster, cache}, state) do
    if MapSet.size(state.behind) == 0, do: retry()
    {:noreply, %{state | behind: MapSet.put(state.behind, {node, cluster, cache})}}
  end

  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:invalidate, cluster, cache, what}, state) do
    invalidate(cache, cluster, what)
    {:noreply, state}
  end

  def handle_info({:hello, node, wrote}, state) when is_atom(node) and is_list(wrote) do
    case state.nodes do
      %{^node => known} when known in [:known, :greeted] ->
        {:noreply, state}

      %{^node => :up} ->
        {:noreply, missed(state, node, wrote, :known)}

      %{} ->
        {:noreply, missed(state, node, wrote, :greeted)}
    end
  end

  def handle_info({:nodeup, node}, state) do
    greet(node)

    case state.nodes do
      %{^node => :greeted} ->
        {:noreply, put_in(state.nodes[node], :known)}

      %{^node => _connected_before} ->
        expire_all()
        {:noreply, put_in(state.nodes[node], :known)}

      %{} ->
        {:noreply, put_in(state.nodes[node], :up)}
    end
  end

  def handle_info(:retry, state) do
    behind =
      MapSet.filter(state.behind, fn {node, cluster, cache} ->
        transmit(node, {:invalidate, cluster, cache, :expire}) == :nosuspend
      end)

    if MapSet.size(behind) > 0, do: retry()
    {:noreply, %{state | behind: behind}}
  end

  def handle_info(_unknown, state), do: {:noreply, state}

  defp retry, do: Process.send_after(self(), :retry, @retry_ms)

  defp greet(node) do
    wrote =
      for {%{cluster: cluster, name: cache}, _owner, cells} <- Instance.all(),
          cluster != nil and Cells.get(cells, :wrote) == 1,
          do: {cluster, cache}

    transmit(node, {:hello, node(), wrote})
  end

  # Written there before the connection.
  defp missed(state, node, wrote, status) do
    for {cluster, cache} <- wrote, do: invalidate(cache, cluster, :expire)
    put_in(state.nodes[node], status)
  end

  defp expire_all do
    for {%{cluster: cluster, name: cache}, _owner, _cells} <- Instance.all(),
        cluster != nil,
        do: Engines.expire(cache)
  end

  defp invalidate(cache, cluster, what) do
    case Instance.config(cache) do
      %{cluster: ^cluster} = config when cluster != nil -> apply_here(config, what)
      _none_or_of_another_cluster -> :ok
    end
  rescue
    # The cache has been stopped meanwhile.
    ArgumentError -> :ok
  end

  defp apply_here(%{name: cache} = config, what) do
    case {what, up?(config)} do
      {{:delete, key}, true} -> Engines.delete(cache, key)
      {:clear, true} -> Engines.clear(cache)
      {_expire_or_away, _up?} -> Engines.expire(cache)
    end
  end

  # In the ETS engine a write waits for the owner while that is restarted. The other caches would
  # wait here, too.
  defp up?(%{engine: :ets, name: cache}), do: Process.whereis(cache) != nil
  defp up?(_native), do: true
end
