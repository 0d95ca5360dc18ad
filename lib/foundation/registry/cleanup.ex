defmodule Foundation.Registry.Cleanup do
  @moduledoc false
  # Emits `[:foundation, :registry, :cleanup]`: the number of agents that were removed because they
  # died.
  #
  # Event handlers may block or raise, so they run here, in a process that no other process waits
  # for. The native library notifies this process of clean-ups among the agents, and the ETS engine
  # counts them with `count/2`. Both add up in one integer, and each engine has at most one unread
  # message. So a handler that blocks forever delays a number, and no mailbox grows. The number is
  # subtracted after the event, so a kill in between reports it twice rather than never.

  use GenServer

  alias Foundation.Native

  @event [:foundation, :registry, :cleanup]
  @agents :foundation_agent_registry

  @count 1
  @told 2

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc """
  Counts entries that the ETS engine removed because their process died. Only those of the agents
  are reported. Any process may call it, even while the reporter restarts.
  """
  @spec count(atom, non_neg_integer) :: :ok
  def count(@agents, number) when number > 0 do
    cells = cells()
    :atomics.add(cells, @count, number)

    if :atomics.exchange(cells, @told, 1) == 0, do: GenServer.cast(__MODULE__, :counted)
    :ok
  end

  def count(_registry, _number), do: :ok

  @doc "Makes the counter, unless an earlier start of the application has."
  @spec open_counter() :: :ok
  def open_counter do
    if :persistent_term.get(__MODULE__, nil) == nil,
      do: :persistent_term.put(__MODULE__, :atomics.new(2, []))

    :ok
  end

  defp cells, do: :persistent_term.get(__MODULE__)

  @impl true
  # The predecessor may have died with a message unread, so the library notifies a new watcher at
  # once.
  def init(nil), do: {:ok, nil, {:continue, :watch}}

  @impl true
  def handle_continue(:watch, state) do
    Native.registry_watch(@agents, self())
    emit()
    {:noreply, state}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(:counted, state) do
    emit()
    {:noreply, state}
  end

  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({:foundation_registry, :deaths}, state) do
    :atomics.add(cells(), @count, Native.registry_take_cleaned(@agents) || 0)
    emit()
    {:noreply, state}
  end

  # A message to this process from a handler that ran in it.
  def handle_info(_message, state), do: {:noreply, state}

  defp emit do
    cells = cells()
    :atomics.put(cells, @told, 0)
    number = :atomics.get(cells, @count)

    if number > 0 do
      :telemetry.execute(@event, %{count: number}, %{})
      :atomics.sub(cells, @count, number)
    end
  end
end
