defmodule Foundation.ConcurrentTable.Owner do
  @moduledoc false
  # Owns a named table; see `Foundation.Owner`.

  @behaviour Foundation.Owner

  require Logger

  alias Foundation.ConcurrentTable.Named
  alias Foundation.Owner
  alias Foundation.Registry.TableHolder

  @spec start_link(%Named.Options{}) :: GenServer.on_start()
  def start_link(%Named.Options{} = options), do: Owner.start_link(__MODULE__, options)

  @impl true
  def open(options) do
    with {:ok, how, table} <- TableHolder.claim(options) do
      report(how, options)
      {:ok, %{table: table, holder: TableHolder.monitor()}}
    end
  end

  defp report({:replaced, engine}, options) do
    Logger.warning(
      "the concurrent table #{inspect(options.name)} was started on the engine " <>
        "#{inspect(options.kind)}, but the table that its predecessor left is on " <>
        "#{inspect(engine)}: that table and its entries are gone"
    )
  end

  defp report(_created_or_adopted, _options), do: :ok

  @impl true
  def owner?(name, pid), do: match?({:ok, %Named{owner: ^pid}}, Named.fetch(name))

  @impl true
  def close(%{table: table}), do: Named.retire(table)

  @impl true
  def handle_message({:DOWN, ref, :process, _pid, _reason}, %{holder: ref} = state),
    do: %{state | holder: TableHolder.republish(state.table)}

  def handle_message(:republish, state),
    do: %{state | holder: TableHolder.republish(state.table)}

  def handle_message(_unknown, state), do: state

  @impl true
  def handle_request(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}
end
