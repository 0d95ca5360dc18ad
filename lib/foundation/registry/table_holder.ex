defmodule Foundation.Registry.TableHolder do
  @moduledoc false
  # Creates the tables of the ETS engine, gives them to their owners, is their heir, and gives
  # them to the next owner. A table that nobody adopts in time is destroyed.
  #
  # It keeps no state that a successor could not do without: the directory says which tables
  # there are. Owners that outlive it publish their tables anew (`Foundation.Registry.Owner`).

  use GenServer

  alias Foundation.Registry.Backends.ETS.Table
  alias Foundation.Registry.Monitor

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    # Tables that had no owner when the predecessor died went with it.
    for table <- Table.all(), not Table.there?(table), do: Table.withdraw(table)
    {:ok, nil}
  end

  @impl true
  def handle_call({:claim, options}, {owner, _tag}, state),
    do: {:reply, claim(Table.fetch(options.name), options, owner), state}

  # The owner of a table has found that this process is new.
  def handle_call({:publish, table}, _from, state) do
    Table.publish(table)
    Monitor.watch_all(table.name)
    {:reply, self(), state}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  # One message for each ETS table of a dead owner; the entries stand for all of them.
  def handle_info({:"ETS-TRANSFER", tid, owner, name}, state) do
    with {:ok, %{entries: ^tid, owner: ^owner, adopt_timeout: timeout} = table}
         when is_integer(timeout) <- Table.fetch(name) do
      Process.send_after(self(), {:expire, table}, timeout)
    end

    {:noreply, state}
  end

  def handle_info({:expire, %{entries: entries, owner: owner} = table}, state) do
    # Adopted meanwhile, if the owner is another.
    with {:ok, %{entries: ^entries, owner: ^owner}} <- Table.fetch(table.name) do
      destroy(table)
    end

    {:noreply, state}
  end

  def handle_info(_unknown, state), do: {:noreply, state}

  defp claim(:error, options, owner), do: {:ok, :created, create(options, owner)}

  defp claim({:ok, table}, options, owner) do
    cond do
      table.owner != owner and Process.alive?(table.owner) ->
        {:error, {:already_started, table.owner}}

      # A request that its owner makes again, this process's predecessor having died over it.
      table.owner == owner and Table.there?(table) ->
        {:ok, :created, table}

      not inherited?(table) ->
        Table.withdraw(table)
        {:ok, :created, create(options, owner)}

      table.kind == options.kind ->
        {:ok, :adopted, table |> Table.configure(options) |> hand_over(owner)}

      true ->
        destroy(table)
        {:ok, {:replaced, table.kind}, create(options, owner)}
    end
  end

  defp create(options, owner), do: options |> Table.create() |> hand_over(owner)

  defp hand_over(table, owner) do
    table = %{table | owner: owner}
    Table.publish(table)
    for part <- Table.parts(table), do: give(part, owner, table.name)
    table
  end

  # An owner that was killed while it started is found out by its successor.
  defp give(part, owner, name) do
    :ets.give_away(part, owner, name)
  rescue
    error in ArgumentError ->
      if Process.alive?(owner), do: reraise(error, __STACKTRACE__)
  end

  # The tables of an owner that is dying still are on their way.
  defp inherited?(table), do: Enum.all?(Table.parts(table), &inherited_part?/1)

  defp inherited_part?(tid) do
    me = self()

    case :ets.info(tid, :owner) do
      ^me ->
        true

      :undefined ->
        false

      _dying ->
        receive do
          {:"ETS-TRANSFER", ^tid, _owner, _name} -> true
        after
          1_000 -> :ets.info(tid, :owner) == me
        end
    end
  end

  defp destroy(table) do
    Table.withdraw(table)
    Monitor.forget(table)
    Table.destroy(table)
  end
end
