defmodule Foundation.FeatureFlags.Server do
  @moduledoc false
  # The one writer of the flags: a change reads what there is and writes it back, so changes
  # go one after another. It holds no state, so that a restart loses none.
  use GenServer

  alias Foundation.FeatureFlags
  alias Foundation.FeatureFlags.Table

  def start_link(_options), do: GenServer.start_link(__MODULE__, [], name: FeatureFlags)

  @doc "Runs a change in the server, or says that there is none."
  @spec change({:put, keyword} | :reset) :: :ok | {:error, FeatureFlags.reason()}
  def change(change) do
    GenServer.call(FeatureFlags, change)
  catch
    # Whatever keeps it from answering: not started, being restarted, stopped meanwhile.
    :exit, {_reason, {GenServer, :call, _arguments}} -> {:error, :unavailable}
  end

  @impl true
  def init([]), do: {:ok, []}

  @impl true
  def handle_call({:put, changes}, _from, state), do: {:reply, Table.put(changes), state}

  def handle_call(:reset, _from, state) do
    {:reply, Table.put(Table.defaults()), state}
  end
end
