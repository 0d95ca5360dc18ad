defmodule CrossReference.Cluster.Agent do
  @moduledoc false
  # Stands for one module, on the node that the cluster chose for it. It finds the agents of the
  # modules that its own calls, on whatever node, and tells them about the calls.
  #
  # A node may be killed at any moment, with its agents. An agent that needs one of them has the
  # cluster start it on another node. The successor sends all its calls again, and the agents that
  # told the predecessor about calls tell the successor. A call is an element of a set, so it counts
  # once.

  use GenServer

  alias CrossReference.Input
  alias Foundation.Cluster

  @retry_ms 20

  @doc "Makes the sources known to the agents of this node."
  @spec put_sources(%{module => Input.Source.t()}) :: :ok
  def put_sources(sources), do: :persistent_term.put(__MODULE__, sources)

  @doc "Returns the agent of a module, and has the cluster start it if there is none."
  @spec ensure(atom, module) :: {:ok, pid} | {:error, term}
  def ensure(cluster, module),
    do: Cluster.ensure(cluster, module, {__MODULE__, :start, [cluster, module]})

  @doc false
  def start(cluster, module), do: GenServer.start(__MODULE__, {cluster, module})

  @doc """
  Returns `{:settled, told, outside}` when each call was told and confirmed: the process that
  confirmed for each called module, and how many calls lead to modules without an agent. `:busy`
  otherwise.
  """
  @spec progress(pid) :: {:settled, %{module => pid}, non_neg_integer} | :busy
  def progress(agent), do: GenServer.call(agent, :progress, :infinity)

  @doc "Returns the calls that the agent was told of: `{caller, function, arity, site}`."
  @spec callers(pid) :: MapSet.t({module, atom, arity, pos_integer})
  def callers(agent), do: GenServer.call(agent, :callers, :infinity)

  @doc "Has the agent need no other one from now on, so that all of them can be stopped."
  @spec finish(pid) :: :ok
  def finish(agent), do: GenServer.call(agent, :finish, :infinity)

  @impl true
  def init({cluster, module}) do
    state = %{
      cluster: cluster,
      module: module,
      calls: %{},
      outside: 0,
      told: %{},
      watched: %{},
      callers: MapSet.new()
    }

    {:ok, state, {:continue, :work}}
  end

  @impl true
  def handle_continue(:work, state) do
    sources = :persistent_term.get(__MODULE__)

    {calls, outside} =
      sources
      |> Map.fetch!(state.module)
      |> Input.calls()
      |> Enum.split_with(fn {callee, _function, _arity, _site} -> is_map_key(sources, callee) end)

    calls =
      Enum.group_by(calls, &elem(&1, 0), fn {_callee, f, a, n} -> {state.module, f, a, n} end)

    state = %{state | calls: calls, outside: length(outside)}
    {:noreply, Enum.reduce(Map.keys(calls), state, &tell/2)}
  end

  @impl true
  def handle_call(:progress, _from, state), do: {:reply, answer(state), state}
  def handle_call(:callers, _from, state), do: {:reply, state.callers, state}
  def handle_call(:finish, _from, state), do: {:reply, :ok, %{state | watched: %{}}}
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:called, calls, {teller, callee}}, state) do
    send(teller, {:confirmed, callee, self()})
    {:noreply, %{state | callers: MapSet.union(state.callers, MapSet.new(calls))}}
  end

  def handle_info({:confirmed, callee, agent}, state) do
    case state.told do
      %{^callee => {:asked, ^agent}} ->
        {:noreply, put_in(state.told[callee], {:confirmed, agent})}

      %{} ->
        {:noreply, state}
    end
  end

  def handle_info({:tell, callee}, state), do: {:noreply, tell(callee, state)}

  def handle_info({:DOWN, monitor, :process, _agent, _reason}, state)
      when is_map_key(state.watched, monitor) do
    {callee, watched} = Map.pop!(state.watched, monitor)
    {:noreply, tell(callee, %{state | watched: watched})}
  end

  # While the nodes did not agree on the members, two of them have started an agent.
  def handle_info({:foundation_cluster, _cluster, :conflict, _module, _winner}, state),
    do: {:stop, :normal, state}

  def handle_info(_unknown, state), do: {:noreply, state}

  defp tell(callee, state) do
    case ensure(state.cluster, callee) do
      {:ok, agent} ->
        monitor = Process.monitor(agent)
        send(agent, {:called, Map.fetch!(state.calls, callee), {self(), callee}})
        told = Map.put(state.told, callee, {:asked, agent})
        %{state | told: told, watched: Map.put(state.watched, monitor, callee)}

      {:error, _reason} ->
        Process.send_after(self(), {:tell, callee}, @retry_ms)
        put_in(state.told[callee], :waiting)
    end
  end

  defp answer(%{calls: calls, told: told}) when map_size(told) < map_size(calls), do: :busy

  defp answer(state) do
    told = for {callee, {:confirmed, agent}} <- state.told, into: %{}, do: {callee, agent}

    if map_size(told) == map_size(state.calls),
      do: {:settled, told, state.outside},
      else: :busy
  end
end
