defmodule CrossReference.Agent do
  @moduledoc false
  # Stands for one module. It finds the agent of each module that its own calls, and
  # tells it about each call; and it keeps what it is told.
  #
  # An agent may be killed at any moment. It may then have sent only a part of its calls, and it
  # loses the calls that it received. Its successor sends all calls again, from the start; a call
  # is an element of a set, so a receiver keeps it once. The senders repeat the calls that it
  # received. Each sender asks the receiver for a confirmation and monitors it. When the receiver
  # dies, the sender looks the module up again and sends everything to the successor.

  use GenServer

  alias Foundation.AgentRegistry
  alias CrossReference.{Events, Input, Tally}
  alias Foundation.Registry

  require Foundation.Telemetry.Span, as: Span

  defmodule Scope do
    @moduledoc false
    # The data that all agents of one run share. `gate` is 0 until all of them are there; `run` is
    # its number.
    @enforce_keys [:registry, :tally, :gate, :run]
    defstruct @enforce_keys

    @type t :: %__MODULE__{
            registry: atom,
            tally: Tally.t(),
            gate: :atomics.atomics_ref(),
            run: integer
          }
  end

  # The delay before the next lookup of a module whose agent is restarting. Its supervisor needs a
  # turn among all agents at work.
  @retry_ms 10

  @spec start_link({Scope.t(), Input.Source.t()}) :: GenServer.on_start()
  def start_link({scope, source}) do
    info = %{application: source.application}
    name = {:via, Registry, {scope.registry, {:module, source.module}, info}}
    GenServer.start_link(__MODULE__, {scope, source}, name: name)
  end

  @doc "Starts the work of an agent that was started before the gate was opened."
  @spec go(pid) :: :ok
  def go(agent), do: GenServer.cast(agent, :go)

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

  @doc "Has the agent register its module in Elixir's own `Registry` too."
  @spec join(pid, atom) :: :ok
  def join(agent, registry), do: GenServer.call(agent, {:join, registry}, :infinity)

  @impl true
  def init({scope, source}) do
    metadata = %{application: source.application}

    case AgentRegistry.register_agent({:module, source.module}, self(), metadata) do
      :ok ->
        Tally.add(scope.tally, :starts)

        state = %{
          scope: scope,
          source: source,
          calls: %{},
          told: %{},
          watched: %{},
          callers: MapSet.new()
        }

        if :atomics.get(scope.gate, 1) == 1,
          do: {:ok, state, {:continue, :work}},
          else: {:ok, state}

      {:error, reason} ->
        {:stop, reason}
    end
  end

  @impl true
  def handle_continue(:work, state), do: {:noreply, work(state)}

  @impl true
  def handle_cast(:go, state), do: {:noreply, work(state)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_call(:progress, _from, state), do: {:reply, answer(state), state}
  def handle_call(:callers, _from, state), do: {:reply, state.callers, state}

  def handle_call({:join, registry}, _from, state) do
    {:ok, _owner} =
      Elixir.Registry.register(registry, {:module, state.source.module}, %{
        application: state.source.application
      })

    {:reply, :ok, state}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_info({:called, call}, state) do
    if MapSet.member?(state.callers, call) do
      {:noreply, state}
    else
      Events.record(state.scope.run, state.source.module, call)
      {:noreply, %{state | callers: MapSet.put(state.callers, call)}}
    end
  end

  # Signals of one process arrive in order, so all calls of the asking process are here.
  def handle_info({:confirm, teller, callee}, state) do
    send(teller, {:confirmed, callee, self()})
    {:noreply, state}
  end

  def handle_info({:confirmed, callee, agent}, state) do
    case state.told do
      %{^callee => {:asked, ^agent}} ->
        {:noreply, put_in(state.told[callee], {:confirmed, agent})}

      # An earlier process of that module confirmed, and was killed after that.
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

  def handle_info(_unknown, state), do: {:noreply, state}

  defp work(%{source: source} = state) do
    state =
      Span.with_span {:module, source.module}, %{application: source.application} do
        calls = Enum.group_by(Input.calls(source), &elem(&1, 0))
        Enum.reduce(Map.keys(calls), %{state | calls: calls}, &tell/2)
      end

    Tally.add(state.scope.tally, :passes)
    state
  end

  defp tell(callee, state) do
    case tell_each(Map.fetch!(state.calls, callee), nil, state) do
      {:told, agent} ->
        monitor = Process.monitor(agent)
        send(agent, {:confirm, self(), callee})
        told = Map.put(state.told, callee, {:asked, agent})
        %{state | told: told, watched: Map.put(state.watched, monitor, callee)}

      :absent ->
        if Registry.meta(state.scope.registry, {:taking_part, callee}) == :error do
          put_in(state.told[callee], :outside)
        else
          Tally.add(state.scope.tally, :missed)
          retry(callee, @retry_ms, state)
        end

      # Killed and restarted between two of these calls: its successor missed some.
      :moved ->
        retry(callee, 0, state)
    end
  end

  defp retry(callee, after_ms, state) do
    Process.send_after(self(), {:tell, callee}, after_ms)
    put_in(state.told[callee], :waiting)
  end

  defp tell_each([], agent, _state), do: {:told, agent}

  defp tell_each([{callee, function, arity, site} | rest], before, state) do
    case find(callee, state.scope) do
      nil ->
        :absent

      agent when before in [nil, agent] ->
        send(agent, {:called, {state.source.module, function, arity, site}})
        Tally.add(state.scope.tally, :told)
        tell_each(rest, agent, state)

      _successor ->
        :moved
    end
  end

  defp find(module, scope) do
    started = :erlang.monotonic_time()
    entries = Registry.lookup(scope.registry, {:module, module})
    Tally.lookup(scope.tally, :erlang.monotonic_time() - started)

    case entries do
      [{agent, _info}] -> agent
      [] -> nil
    end
  end

  defp answer(%{calls: calls, told: told}) when map_size(told) < map_size(calls), do: :busy

  defp answer(state) do
    Enum.reduce_while(state.told, {:settled, %{}, 0}, fn
      {callee, {:confirmed, agent}}, {:settled, told, outside} ->
        {:cont, {:settled, Map.put(told, callee, agent), outside}}

      {callee, :outside}, {:settled, told, outside} ->
        {:cont, {:settled, told, outside + length(state.calls[callee])}}

      {_callee, _asked_or_waiting}, _settled ->
        {:halt, :busy}
    end)
  end
end
