defmodule Foundation.Registry.Owner do
  @moduledoc false
  # The process that stands for a table in its supervision tree and bears its name. It does
  # nothing: when it stops in order the table goes, when it dies otherwise the table stays
  # for its successor.

  use GenServer

  require Logger

  alias Foundation.{Ancestors, ExitReason, Native, Predecessor, RetryingCall}
  alias Foundation.Registry.{Backend, Monitor, Options, TableHolder}
  alias Foundation.Registry.Backends.ETS.Table

  @republish_ms 10

  # GenServer would register the name before init/1, and a caller that finds it then would find
  # no table, or one that belongs to the predecessor. So the name comes last here. As there, it is
  # looked for before a process is started, whose exit a caller that traps exits would hear of.
  @spec start_link(Options.t()) :: GenServer.on_start()
  def start_link(%Options{} = options) do
    with :ok <- check_free(options.name),
         do: :proc_lib.start_link(__MODULE__, :start, [options, self()])
  end

  @doc false
  def start(options, parent) do
    with {:ok, state} <- init(options),
         :ok <- claim(options.name) do
      :proc_lib.init_ack({:ok, self()})
      state = Map.put(state, :parent, parent)
      :gen_server.enter_loop(__MODULE__, [], state, {:local, options.name})
    else
      {:error, _reason} = error -> fail(error)
    end
  end

  # From OTP 26 on a start can fail without its caller hearing of an exit, as GenServer's do.
  if function_exported?(:proc_lib, :init_fail, 2) do
    defp fail(error), do: :proc_lib.init_fail(error, {:exit, :normal})
  else
    defp fail(error), do: :proc_lib.init_ack(error)
  end

  @impl true
  def init(options) do
    # So that terminate/2 runs when the supervisor says :shutdown.
    Process.flag(:trap_exit, true)
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

  # The VM's error for a process without a name; Elixir's Registry returns the same.
  defp check_free(:undefined), do: {:error, {:already_started, :undefined}}

  defp check_free(name) do
    name_holder = Process.whereis(name)

    cond do
      name_holder == nil -> :ok
      owner?(name_holder, name) and leaving?(name_holder) -> check_free(name)
      true -> {:error, {:already_started, name_holder}}
    end
  end

  # The owner that a killed supervisor left behind (`Foundation.Predecessor`). If this start failed
  # then, that of the supervisor's successor would, and it would stop in order what it had started
  # already: other registries, with all their entries.
  defp leaving?(owner) do
    case parent(owner) do
      {parent, linked?} ->
        cond do
          Process.alive?(parent) -> false
          linked? -> Predecessor.gone?(owner)
          # It was unlinked, and stays; or the exit is the next message that it gets.
          true -> parent(owner) == :gone
        end

      :busy ->
        false

      :gone ->
        true
    end
  end

  defp parent(owner) do
    GenServer.call(owner, :parent)
  catch
    :exit, {:timeout, {GenServer, :call, _arguments}} -> :busy
    :exit, {_reason, {GenServer, :call, _arguments}} -> :gone
  end

  # And not another process that has this name.
  defp owner?(name_holder, name) do
    match?({_kind, _partitions, _listeners, ^name_holder}, Native.registry_config(name)) or
      match?({:ok, %Table{owner: ^name_holder}}, Table.fetch(name))
  end

  # Taken meanwhile by somebody who is no owner, or not yet let go by a predecessor that is
  # exiting: the table has no owner until the next start. Or given back meanwhile: then again.
  defp claim(name) do
    # `Process.register/2` refuses nil, true and false.
    true = :erlang.register(name, self())
    :ok
  rescue
    # Of a name that is an atom and a process that lives and has none, it means that it is taken.
    ArgumentError -> with :ok <- check_free(name), do: claim(name)
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
  # A table has no children, but callers of Supervisor.which_children/1 and
  # count_children/1 are used to a registry that answers.
  def handle_call(:which_children, _from, state), do: {:reply, [], state}

  def handle_call(:count_children, _from, state),
    do: {:reply, [specs: 0, active: 0, supervisors: 0, workers: 0], state}

  def handle_call(:parent, _from, %{parent: parent} = state) do
    {:links, links} = Process.info(self(), :links)
    {:reply, {parent, parent in links}, state}
  end

  # The requests of `Supervisor` about one child, by its id: the standard library's registry is a
  # supervisor.
  def handle_call({request, _id}, _from, state)
      when request in [
             :terminate_child,
             :restart_child,
             :delete_child,
             :get_childspec,
             :which_child
           ],
      do: {:reply, {:error, :not_found}, state}

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  # Linked to nobody but the parent, whose exit never comes here: somebody sent this signal,
  # and an owner that did not trap exits would obey it.
  def handle_info({:EXIT, _from, :normal}, state), do: {:noreply, state}
  def handle_info({:EXIT, _from, reason}, state), do: {:stop, reason, state}

  # The heir of the ETS tables is gone. Its successor may have withdrawn them from the directory.
  def handle_info({:DOWN, ref, :process, _pid, _reason}, %{holder: ref} = state),
    do: {:noreply, republish(state)}

  def handle_info({:DOWN, ref, :process, _pid, reason}, state),
    do: {:noreply, %{state | ancestors: Ancestors.down(state.ancestors, ref, reason)}}

  def handle_info(:republish, state), do: {:noreply, republish(state)}
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    if ExitReason.orderly?(reason) and not Ancestors.crashed?(state.ancestors),
      do: state.backend.stop(state.name, state.table)
  end

  defp watch_holder(nil), do: nil
  defp watch_holder(%Table{}), do: Process.monitor(TableHolder)

  defp republish(%{table: table} = state) do
    case Process.whereis(TableHolder) && RetryingCall.call(TableHolder, {:publish, table}) do
      nil ->
        Process.send_after(self(), :republish, @republish_ms)
        state

      holder ->
        for part <- Table.parts(table), do: :ets.setopts(part, {:heir, holder, table.name})
        %{state | holder: Process.monitor(holder)}
    end
  end
end
