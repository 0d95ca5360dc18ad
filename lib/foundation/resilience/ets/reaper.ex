defmodule Foundation.Resilience.ETS.Reaper do
  @moduledoc false
  # Removes the state of instances whose owner crashed and has had no successor in time.
  #
  # It keeps nothing that a successor could not read in the table of instances.

  use GenServer

  alias Foundation.Resilience.ETS

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Watches the owner of an instance."
  @spec watch(atom, pid, timeout) :: :ok
  def watch(name, owner, timeout), do: GenServer.cast(__MODULE__, {:watch, name, owner, timeout})

  @impl true
  def init(nil) do
    for {name, owner, timeout} <- ETS.owners(), do: monitor(name, owner, timeout)
    {:ok, nil}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:watch, name, owner, timeout}, state) do
    monitor(name, owner, timeout)
    {:noreply, state}
  end

  def handle_cast(_unknown, state), do: {:noreply, state}

  # With a timeout of `:infinity` the state waits for a successor as long as it takes.
  @impl true
  def handle_info({{:down, name, timeout}, _ref, :process, owner, _reason}, state)
      when is_integer(timeout) and timeout >= 0 do
    Process.send_after(self(), {:expire, name, owner}, timeout)
    {:noreply, state}
  end

  # Adopted meanwhile, if the owner is another.
  def handle_info({:expire, name, owner}, state) do
    ETS.forget(name, owner)
    {:noreply, state}
  end

  def handle_info(_unknown, state), do: {:noreply, state}

  defp monitor(name, owner, timeout),
    do: :erlang.monitor(:process, owner, tag: {:down, name, timeout})
end
