defmodule Foundation.Registry.Owner do
  @moduledoc false
  # Owns a registry's table; see `Foundation.Owner`.

  @behaviour Foundation.Owner

  require Logger

  alias Foundation.{Ancestors, Native, Owner}
  alias Foundation.Registry.{Backend, Monitor, Options, TableHolder}
  alias Foundation.Registry.Backends.ETS.Table

  @spec start_link(Options.t()) :: GenServer.on_start()
  def start_link(%Options{} = options), do: Owner.start_link(__MODULE__, options)

  @impl true
  def open(options) do
    clear_other_engine(options)
    backend = Backend.of_engine(options.engine)

    with {:ok, how, table} <- backend.start(options) do
      report(how, options)

      {:ok,
       %{
         name: options.name,
         backend: backend,
         table: table,
         holder: watch_holder(table),
         ancestors: if(options.ancestors, do: Ancestors.watch(), else: %Ancestors{})
       }}
    end
  end

  @impl true
  def owner?(name, pid) do
    match?({_kind, _partitions, _listeners, ^pid}, Native.registry_config(name)) or
      match?({:ok, %Table{owner: ^pid}}, Table.fetch(name))
  end

  # Destroys a table of this name that a crash left behind in the other engine, before a change of
  # configuration. It would be unreachable, or it would hide the new table.
  defp clear_other_engine(%{engine: :ets, name: name}) do
    if Native.registry_config(name), do: Native.registry_stop(name)
  end

  defp clear_other_engine(%{engine: :native, name: name}) do
    with {:ok, table} <- Table.fetch(name) do
      Table.withdraw(table)
      if Table.there?(table), do: Monitor.forget(table)
    end
  end

  defp report({:replaced, kind}, options) do
    Logger.warning(
      "registry #{inspect(options.name)} was started with keys: " <>
        "#{inspect(Options.keys(options.kind))}, but the table that its predecessor left has " <>
        "keys: #{inspect(Options.keys(kind))}: that table and its entries are gone"
    )
  end

  defp report(_created_or_adopted, _options), do: :ok

  @impl true
  def handle_request(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  # The heir of the ETS tables is gone. Its successor may have withdrawn them from the directory.
  def handle_message({:DOWN, ref, :process, _pid, _reason}, %{holder: ref} = state),
    do: republish(state)

  def handle_message({:DOWN, ref, :process, _pid, reason}, state),
    do: %{state | ancestors: Ancestors.down(state.ancestors, ref, reason)}

  def handle_message(:republish, state), do: republish(state)
  def handle_message(_unknown, state), do: state

  @impl true
  def close(state) do
    unless Ancestors.crashed?(state.ancestors),
      do: state.backend.stop(state.name, state.table)
  end

  defp watch_holder(nil), do: nil
  defp watch_holder(%Table{}), do: TableHolder.monitor()

  defp republish(state), do: %{state | holder: TableHolder.republish(state.table)}
end
