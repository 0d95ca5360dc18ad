defmodule Foundation.StateManager.Server do
  @moduledoc false
  # The process: a GenServer around the user's module, whose state it holds and checkpoints.
  #
  # It wraps the user's state in a struct and is the callback module itself. The user's module
  # could not be: terminate/2 needs the directory, and gets only the state.

  use GenServer

  require Logger

  alias Foundation.StateManager.Store

  @tick {Foundation.StateManager, :tick}

  @enforce_keys [:module, :state, :store, :interval]
  # changed: whether a callback has run since the last checkpoint. resume: the timeout or
  # hibernation that the last callback returned. A checkpoint in between must not lose it.
  defstruct [:module, :state, :store, :interval, changed: false, resume: nil]

  @doc "The message of `Foundation.StateManager.checkpoint/2`."
  @spec request() :: term
  def request, do: {Foundation.StateManager, :checkpoint}

  @doc """
  The `handle_info/2` of a module that defines none.

  That exits are trapped is our choice, not the module's, so a link does what it does elsewhere.
  Anything else is logged, as `GenServer` does.
  """
  @spec default_handle_info(module, term, state) :: {:noreply, state} | {:stop, term, state}
        when state: term
  def default_handle_info(_module, {:EXIT, _pid, :normal}, state), do: {:noreply, state}
  def default_handle_info(_module, {:EXIT, _pid, reason}, state), do: {:stop, reason, state}

  def default_handle_info(module, message, state) do
    Logger.error(
      "#{inspect(module)} #{inspect(self())} received unexpected message in handle_info/2: " <>
        inspect(message)
    )

    {:noreply, state}
  end

  @impl true
  def init({module, dir, interval, options}) do
    # Without it a supervisor's stop would not come by terminate/2.
    Process.flag(:trap_exit, true)
    started = System.monotonic_time()

    with {:ok, store, restored, problems} <- Store.open(dir) do
      Enum.each(problems, &report_damage/1)

      {state, path} =
        case restored do
          {:ok, state, path} -> {state, path}
          :none -> {module.initial_state(options), nil}
        end

      duration = System.monotonic_time() - started
      execute(:restore, %{duration: duration}, %{module: module, path: path})

      # A state that differs from the newest checkpoint must still be checkpointed.
      changed = path == nil or problems != []

      {:ok,
       schedule(%__MODULE__{
         module: module,
         state: state,
         store: store,
         interval: interval,
         changed: changed
       })}
    else
      {:error, reason} ->
        {:stop, {:checkpoint_dir, Path.expand(dir), reason}}
    end
  end

  @impl true
  def handle_call({Foundation.StateManager, :checkpoint}, _from, server) do
    {result, server} = checkpoint(server)
    reply(result, server)
  end

  def handle_call(message, from, server) do
    wrap(server.module.handle_call(message, from, server.state), server)
  end

  @impl true
  def handle_cast(message, server) do
    wrap(server.module.handle_cast(message, server.state), server)
  end

  @impl true
  def handle_info(@tick, server) do
    server = if due?(server), do: server |> checkpoint() |> elem(1), else: server
    noreply(schedule(server))
  end

  def handle_info(message, server) do
    wrap(server.module.handle_info(message, server.state), server)
  end

  @impl true
  def handle_continue(continue, server) do
    wrap(server.module.handle_continue(continue, server.state), server)
  end

  @impl true
  def terminate(reason, server) do
    # First, since the user's own may raise.
    if due?(server), do: checkpoint(server)
    Store.close(server.store)

    if function_exported?(server.module, :terminate, 2) do
      server.module.terminate(reason, server.state)
    end
  end

  @impl true
  def code_change(old, server, extra) do
    with {:ok, state} <- server.module.code_change(old, server.state, extra) do
      {:ok, %{server | state: state, changed: true}}
    end
  end

  # So that :sys.get_status/1 and crash reports show the user's state. OTP has this callback from
  # 25 on, Elixir lists it from 1.17 on.
  if {:format_status, 1} in GenServer.behaviour_info(:callbacks), do: @impl(true)

  def format_status(%{state: %__MODULE__{} = server} = status) do
    status = %{status | state: server.state}

    if function_exported?(server.module, :format_status, 1) do
      server.module.format_status(status)
    else
      status
    end
  end

  def format_status(status), do: status

  # A callback's answer, with the state of the user's in it put back into ours.
  defp wrap({:reply, reply, state}, server), do: {:reply, reply, put(server, state, nil)}
  defp wrap({:noreply, state}, server), do: {:noreply, put(server, state, nil)}
  defp wrap({:stop, reason, state}, server), do: {:stop, reason, put(server, state, nil)}

  defp wrap({:stop, reason, reply, state}, server) do
    {:stop, reason, reply, put(server, state, nil)}
  end

  defp wrap({:reply, reply, state, extra}, server) do
    {:reply, reply, put(server, state, extra), extra}
  end

  defp wrap({:noreply, state, extra}, server), do: {:noreply, put(server, state, extra), extra}
  # gen_server stops with {:bad_return_value, other}.
  defp wrap(other, _server), do: other

  defp put(server, state, extra) do
    %{server | state: state, changed: true, resume: resume(extra)}
  end

  defp resume(timeout) when is_integer(timeout), do: {:timeout_at, now() + timeout}
  defp resume(:hibernate), do: :hibernate
  defp resume(_), do: nil

  defp reply(result, %{resume: nil} = server), do: {:reply, result, server}
  defp reply(result, server), do: {:reply, result, server, remaining(server.resume)}

  defp noreply(%{resume: nil} = server), do: {:noreply, server}
  defp noreply(server), do: {:noreply, server, remaining(server.resume)}

  defp remaining({:timeout_at, time}), do: max(time - now(), 0)
  defp remaining(:hibernate), do: :hibernate

  defp now, do: System.monotonic_time(:millisecond)

  defp schedule(%{interval: :infinity} = server), do: server

  defp schedule(server) do
    # Counted from the end of the last write: a slow disk does not fill the mailbox with ticks.
    Process.send_after(self(), @tick, server.interval)
    server
  end

  # A checkpoint that was removed meanwhile, be it with its directory, is written again.
  defp due?(server), do: server.changed or not Store.saved?(server.store)

  defp checkpoint(server) do
    started = System.monotonic_time()

    case Store.write(server.store, server.state) do
      {:ok, store, path, bytes} ->
        duration = System.monotonic_time() - started
        metadata = %{module: server.module, path: path}
        execute(:checkpoint, %{duration: duration, bytes: bytes}, metadata)
        {:ok, %{server | store: store, changed: false}}

      {:error, reason, store} ->
        metadata = %{module: server.module, path: store.dir, reason: reason}
        execute(:checkpoint_failed, %{count: 1}, metadata)

        Logger.warning(
          "no checkpoint of #{inspect(server.module)} could be written to #{store.dir}: " <>
            "#{reason_text(reason)} (#{inspect(reason)})"
        )

        # Not schedule/1: the caller decides when to try again.
        {{:error, reason}, %{server | store: store}}
    end
  end

  defp reason_text(:in_use), do: "another server has taken the directory"
  defp reason_text(reason), do: :file.format_error(reason)

  defp report_damage({path, reason}) do
    execute(:corrupt, %{count: 1}, %{path: path, reason: reason})

    Logger.warning(
      "the checkpoint #{path} cannot be used (#{inspect(reason)}): taking the one before it"
    )
  end

  defp execute(event, measurements, metadata) do
    :telemetry.execute([:foundation, :state, event], measurements, metadata)
  end
end
