defmodule Foundation.Registry.TableHolder do
  @moduledoc false
  # Creates the registries of the ETS engine, and the named concurrent tables of both engines. It
  # gives each table to its owner and, after a crash, to the next owner. In between it is the heir
  # of the ETS tables. A table without a new owner in time is destroyed.
  #
  # It keeps no state that a successor could not do without: the directory says which tables
  # there are. Owners that outlive it publish their tables anew (`republish/1`).
  #
  # A table's death is that of its owner. An heir is told by ETS. The owner of a table without ETS
  # tables is monitored: the state has these tables by their monitors.

  use GenServer

  alias Foundation.ConcurrentTable.Named
  alias Foundation.Registry.Backends.ETS.Table
  alias Foundation.Registry.{HeldTable, Options}
  alias Foundation.RetryingCall

  @kinds [Table, Named]
  @republish_ms 10

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  ## In the owner

  @doc "Creates the table of that name for the caller, or gives it the one that lost its owner."
  @spec claim(HeldTable.options()) ::
          {:ok, :created | :adopted | {:replaced, kind :: atom}, HeldTable.table()}
          | {:error, {:already_started, pid}}
  def claim(options), do: RetryingCall.call(__MODULE__, {:claim, options})

  @doc "Monitors the holder: after its death the owner has to call `republish/1`."
  @spec monitor() :: reference
  def monitor, do: Process.monitor(__MODULE__)

  @doc """
  Makes the new holder the heir of the caller's table, and returns the monitor of that holder. If
  there is none yet, the caller gets the message `:republish` and calls this again.
  """
  @spec republish(HeldTable.table()) :: reference | nil
  def republish(%module{} = table) do
    case Process.whereis(__MODULE__) && RetryingCall.call(__MODULE__, {:publish, table}) do
      nil ->
        Process.send_after(self(), :republish, @republish_ms)
        nil

      holder ->
        for part <- module.parts(table),
            do: :ets.setopts(part, {:heir, holder, table.name})

        Process.monitor(holder)
    end
  end

  ## In the holder

  @impl true
  def init(nil) do
    # ETS tables that had no owner when the predecessor died went with it.
    for module <- @kinds,
        table <- module.all(),
        not module.there?(table),
        do: module.withdraw(table)

    {:ok,
     for(module <- @kinds, table <- module.all(), reduce: %{}, do: (state -> watch(state, table)))}
  end

  @impl true
  def handle_call({:claim, options}, {owner, _tag}, state) do
    module = kind(options)

    case claim(module.fetch(options.name), module, options, owner) do
      {:ok, _how, table} = claimed -> {:reply, claimed, watch(state, table)}
      error -> {:reply, error, state}
    end
  end

  # The owner of a table has found that this process is new.
  def handle_call({:publish, %module{} = table}, _from, state) do
    module.restore(table)
    {:reply, self(), state}
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  # One message for each ETS table of a dead owner; the entries stand for all of them.
  def handle_info({:"ETS-TRANSFER", tid, owner, name}, state) do
    for module <- @kinds,
        {:ok, %{entries: ^tid, owner: ^owner} = table} <- [module.fetch(name)],
        do: expire_later(table)

    {:noreply, state}
  end

  def handle_info({:DOWN, ref, :process, _pid, _reason}, state) when is_map_key(state, ref) do
    {%module{entries: entries, owner: owner} = table, state} = Map.pop!(state, ref)

    # After an orderly stop it is gone.
    with {:ok, %{entries: ^entries, owner: ^owner}} <- module.fetch(table.name),
         do: expire_later(table)

    {:noreply, state}
  end

  def handle_info({:expire, %module{entries: entries, owner: owner} = table}, state) do
    # Adopted meanwhile, if the owner is another.
    with {:ok, %{entries: ^entries, owner: ^owner}} <- module.fetch(table.name),
         do: module.retire(table)

    {:noreply, state}
  end

  def handle_info(_unknown, state), do: {:noreply, state}

  defp kind(%Options{}), do: Table
  defp kind(%Named.Options{}), do: Named

  defp watch(state, %module{} = table) do
    if module.parts(table) == [],
      do: Map.put(state, Process.monitor(table.owner), table),
      else: state
  end

  defp expire_later(%{adopt_timeout: timeout} = table) when is_integer(timeout),
    do: Process.send_after(self(), {:expire, table}, timeout)

  defp expire_later(_table), do: :ok

  defp claim(:error, module, options, owner), do: {:ok, :created, create(module, options, owner)}

  defp claim({:ok, table}, module, options, owner) do
    cond do
      table.owner != owner and Process.alive?(table.owner) ->
        {:error, {:already_started, table.owner}}

      # A request that its owner makes again, this process's predecessor having died over it.
      table.owner == owner and module.there?(table) ->
        {:ok, :created, table}

      not inherited?(table) ->
        module.withdraw(table)
        {:ok, :created, create(module, options, owner)}

      table.kind == options.kind ->
        {:ok, :adopted, table |> module.configure(options) |> hand_over(owner)}

      true ->
        module.retire(table)
        {:ok, {:replaced, table.kind}, create(module, options, owner)}
    end
  end

  defp create(module, options, owner), do: options |> module.create() |> hand_over(owner)

  defp hand_over(%module{} = table, owner) do
    table = %{table | owner: owner}
    module.publish(table)
    for part <- module.parts(table), do: give(part, owner, table.name)
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
  defp inherited?(%module{} = table),
    do: module.there?(table) and Enum.all?(module.parts(table), &inherited_part?/1)

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
end
