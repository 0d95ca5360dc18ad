defmodule Foundation.Reaper do
  @moduledoc false
  # Removes the state of instances whose owner crashed and has had no successor in time.
  #
  # A callback module keeps the state, in a table that outlives the owners. The reaper keeps nothing
  # that a successor could not read there.

  use GenServer

  @doc "Returns the owners of all instances."
  @callback owners() :: [{name :: atom, owner :: pid, adopt_timeout :: timeout}]

  @doc "Removes the state of an instance that still has this owner."
  @callback forget(name :: atom, owner :: pid) :: term

  @spec child_spec({atom, module}) :: Supervisor.child_spec()
  def child_spec({name, _module} = argument),
    do: %{id: name, start: {__MODULE__, :start_link, [argument]}}

  @spec start_link({atom, module}) :: GenServer.on_start()
  def start_link({name, module}), do: GenServer.start_link(__MODULE__, module, name: name)

  @doc "Watches the owner of an instance."
  @spec watch(atom, atom, pid, timeout) :: :ok
  def watch(reaper, name, owner, timeout),
    do: GenServer.cast(reaper, {:watch, name, owner, timeout})

  @impl true
  def init(module) do
    for {name, owner, timeout} <- module.owners(), do: monitor(name, owner, timeout)
    {:ok, module}
  end

  @impl true
  def handle_call(_unknown, _from, module), do: {:reply, {:error, :unknown_call}, module}

  @impl true
  def handle_cast({:watch, name, owner, timeout}, module) do
    monitor(name, owner, timeout)
    {:noreply, module}
  end

  def handle_cast(_unknown, module), do: {:noreply, module}

  # With a timeout of `:infinity` the state waits for a successor as long as it takes.
  @impl true
  def handle_info({{:down, name, timeout}, _ref, :process, owner, _reason}, module)
      when is_integer(timeout) and timeout >= 0 do
    Process.send_after(self(), {:expire, name, owner}, timeout)
    {:noreply, module}
  end

  # Adopted meanwhile, if the owner is another.
  def handle_info({:expire, name, owner}, module) do
    module.forget(name, owner)
    {:noreply, module}
  end

  def handle_info(_unknown, module), do: {:noreply, module}

  defp monitor(name, owner, timeout),
    do: :erlang.monitor(:process, owner, tag: {:down, name, timeout})
end
