defmodule Foundation.FeatureFlags.Server do
  @moduledoc false
  # The one writer of the flags: a change reads what there is and writes it back, so changes
  # go one after another. It holds no state, so that a restart loses none. If it is killed in
  # the middle of a change, its successor takes back what there is of it.
  use GenServer

  alias Foundation.FeatureFlags
  alias Foundation.FeatureFlags.Table

  def start_link(_options), do: GenServer.start_link(__MODULE__, [], name: FeatureFlags)

  @doc "Runs a change in the server, or says that there is none."
  @spec change({:put, keyword} | :reset) :: :ok | {:error, FeatureFlags.reason()}
  def change(change) do
    GenServer.call(FeatureFlags, change)
  catch
    # Not started, or being restarted: it has not been asked.
    :exit, {:noproc, {GenServer, :call, _arguments}} ->
      {:error, :unavailable}

    # Killed or stopped meanwhile, before the change, in it, or between it and the answer.
    :exit, {_reason, {GenServer, :call, _arguments}} ->
      Table.settle()
      if Table.put?(changes(change)), do: :ok, else: {:error, :unavailable}
  end

  @impl true
  def init([]) do
    :ok = Table.restore()
    {:ok, []}
  end

  @impl true
  def handle_call({:put, _changes} = change, _from, state), do: {:reply, apply_now(change), state}
  def handle_call(:reset, _from, state), do: {:reply, apply_now(:reset), state}
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info(_unknown, state), do: {:noreply, state}

  defp apply_now(change), do: Table.put(changes(change))

  defp changes({:put, changes}), do: changes
  defp changes(:reset), do: Table.defaults()
end
