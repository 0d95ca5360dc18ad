defmodule Foundation.Registry.Monitor do
  @moduledoc false
  # Monitors the registrants that no other code monitors: all of the ETS engine, and the remote ones
  # of the native engine. The library itself monitors its local registrants.
  #
  # A request to watch is lost if this process dies first. So the caller leaves a trace of the
  # registrant in the table before each request, and a new monitor watches all registrants in the
  # tables.

  use GenServer

  alias Foundation.Native
  alias Foundation.Registry.Backends.ETS.Table
  alias Foundation.Registry.Cleanup

  @chunk 1_000

  # The most deaths that are cleaned up together.
  @batch 500

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Cleans up after `pid` in the table of that name when it dies, or its node goes."
  @spec watch(atom, pid) :: :ok
  def watch(name, pid), do: GenServer.cast(__MODULE__, {:watch, name, pid})

  @doc "Watches all registrants of an ETS table that are not watched yet."
  @spec watch_all(atom) :: :ok
  def watch_all(name), do: GenServer.cast(__MODULE__, {:watch_all, name})

  @doc "Ends the watch over an ETS table that is about to go."
  @spec forget(Table.t()) :: :ok
  def forget(%Table{registrants: registrants}) do
    spec = [{{:_, :"$1", :"$2"}, [{:is_pid, :"$1"}], [{{:"$1", :"$2"}}]}]
    each_chunk(registrants, spec, &GenServer.cast(__MODULE__, {:forget, &1}))
  end

  @impl true
  # The state has the monitors of the native engine's remote registrants. A process has one, however
  # many registries it is in, so its death is reported once. Several reports could be mistaken for
  # the death of a process that has come back. A monitor lasts as long as its process. The ETS
  # engine's monitors are in its tables, where a million of them need no map.
  def init(nil), do: {:ok, %{}, {:continue, :take_over}}

  @impl true
  def handle_continue(:take_over, remotes) do
    for table <- Table.all(), do: watch_all_of(table)

    {:noreply,
     for(
       name <- Native.registry_names(),
       pid <- Native.registry_remotes(name) || [],
       reduce: remotes,
       do: (remotes -> watch_remote(remotes, pid))
     )}
  end

  @impl true
  def handle_call(_unknown, _from, remotes), do: {:reply, {:error, :unknown_call}, remotes}

  @impl true
  def handle_cast({:watch, name, pid}, remotes) do
    case Table.fetch(name) do
      {:ok, table} ->
        watch_registrant(table, pid)
        {:noreply, remotes}

      :error ->
        {:noreply, watch_remote(remotes, pid)}
    end
  end

  def handle_cast({:watch_all, name}, remotes) do
    with {:ok, table} <- Table.fetch(name), do: watch_all_of(table)
    {:noreply, remotes}
  end

  def handle_cast({:forget, monitors}, remotes) when is_list(monitors) do
    for {monitoring, ref} <- monitors, monitoring == self(), do: Process.demonitor(ref)
    {:noreply, remotes}
  end

  def handle_cast(_unknown, remotes), do: {:noreply, remotes}

  @impl true
  def handle_info({{:down, name, registrants}, _ref, :process, pid, _reason}, remotes) do
    # Entries of processes that died together are removed together: see `Table.clean/2`.
    pids = [pid | more_deaths(name, registrants, @batch)]
    # If the table is gone or was replaced by another one, there is nothing to clean up.
    with {:ok, %{registrants: ^registrants} = table} <- Table.fetch(name), do: clean(table, pids)
    {:noreply, remotes}
  end

  def handle_info({:remote_down, _ref, :process, pid, _reason}, remotes) do
    # This is for all registries, whichever is named. The library notifies `Cleanup`.
    _removed = Native.registry_remote_down(__MODULE__, pid)
    {:noreply, Map.delete(remotes, pid)}
  end

  def handle_info(_unknown, remotes), do: {:noreply, remotes}

  ## ETS

  defp watch_registrant(table, pid) do
    case :ets.lookup(table.registrants, pid) do
      [{_pid, monitoring, _ref}] when monitoring == self() -> :ok
      _not_by_me -> monitor_registrant(table, pid)
    end
  rescue
    # The table was deleted meanwhile. Any other `ArgumentError` is a defect of this module.
    error in ArgumentError -> if Table.there?(table), do: reraise(error, __STACKTRACE__)
  end

  # The table's name is in the message's tag, so a death needs nothing but the message.
  defp monitor_registrant(table, pid) do
    ref = :erlang.monitor(:process, pid, tag: {:down, table.name, table.registrants})
    :ets.insert(table.registrants, {pid, self(), ref})
  end

  defp watch_all_of(table) do
    spec = [{{:"$1", :"$2", :_}, [{:"=/=", :"$2", self()}], [:"$1"]}]
    for pid <- :ets.select(table.registrants, spec), do: watch_registrant(table, pid)
  rescue
    error in ArgumentError -> if Table.there?(table), do: reraise(error, __STACKTRACE__)
  end

  defp more_deaths(_name, _registrants, 0), do: []

  defp more_deaths(name, registrants, limit) do
    receive do
      {{:down, ^name, ^registrants}, _ref, :process, pid, _reason} ->
        [pid | more_deaths(name, registrants, limit - 1)]
    after
      0 -> []
    end
  end

  defp clean(table, pids) do
    Cleanup.count(table.name, Table.clean(table, pids))
  rescue
    error in ArgumentError -> if Table.there?(table), do: reraise(error, __STACKTRACE__)
  end

  ## Native

  # A local process was registered in an ETS table that is gone.
  defp watch_remote(remotes, pid) when is_map_key(remotes, pid) or node(pid) == node(),
    do: remotes

  defp watch_remote(remotes, pid),
    do: Map.put(remotes, pid, :erlang.monitor(:process, pid, tag: :remote_down))

  defp each_chunk(tid, spec, fun) do
    # The table is never released, because it is about to be deleted.
    :ets.safe_fixtable(tid, true)
    tid |> :ets.select(spec, @chunk) |> next_chunk(fun)
  end

  defp next_chunk(:"$end_of_table", _fun), do: :ok

  defp next_chunk({rows, continuation}, fun) do
    fun.(rows)

    if continuation == :"$end_of_table",
      do: :ok,
      else: continuation |> :ets.select() |> next_chunk(fun)
  end
end
