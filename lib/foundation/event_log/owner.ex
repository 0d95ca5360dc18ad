defmodule Foundation.EventLog.Owner do
  @moduledoc false
  # The process that represents a log in its supervision tree and has its name. It does nothing
  # else. When it stops in order, the log is closed. When it dies otherwise, the log stays open, calls
  # go on, and its successor adopts it.

  use GenServer

  require Logger

  alias Foundation.{Engine, ExitReason, Native}
  alias Foundation.EventLog.Settings
  alias Foundation.Native.Library

  # A failed start is an answer and no exit: a caller that does not trap exits survives it, as that of
  # `Foundation.Registry.start_link/1` does.
  @spec start_link(Settings.t()) :: GenServer.on_start()
  def start_link(%Settings{} = settings) do
    case Process.whereis(settings.name) do
      nil -> :proc_lib.start_link(__MODULE__, :start, [settings])
      pid -> {:error, {:already_started, pid}}
    end
  end

  @doc false
  def start(settings) do
    with :ok <- take_name(settings.name),
         {:ok, state} <- init(settings) do
      :proc_lib.init_ack({:ok, self()})
      :gen_server.enter_loop(__MODULE__, [], state, {:local, settings.name})
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

  defp take_name(name) do
    true = :erlang.register(name, self())
    :ok
  rescue
    ArgumentError ->
      case Process.whereis(name) do
        nil -> take_name(name)
        pid -> {:error, {:already_started, pid}}
      end
  end

  @impl true
  def init(settings) do
    # So that terminate/2 runs when the supervisor says :shutdown.
    Process.flag(:trap_exit, true)

    case open(settings) do
      started when started in [:created, :adopted] ->
        {:ok, settings}

      {:recovered, path, cut_bytes} ->
        :telemetry.execute(
          [:foundation, :event_log, :recover],
          %{cut_bytes: cut_bytes},
          %{log: settings.name, path: path}
        )

        {:ok, settings}

      {:error, {:damaged, path, reason}} = error ->
        report_damage(settings.name, path, reason)
        error

      {:error, _reason} = error ->
        error

      nil ->
        {:error, {:engine, engine_cause()}}
    end
  end

  defp open(settings) do
    Native.event_log_start(
      settings.name,
      settings.dir,
      settings.sync_ms,
      settings.segment_bytes,
      settings.max_event_bytes,
      settings.adopt_timeout
    )
  end

  @doc "Reports a damaged file: an event and a log entry."
  @spec report_damage(atom, Path.t(), term) :: :ok
  def report_damage(log, path, reason) do
    Logger.error("the event log #{inspect(log)} is damaged: #{path}: #{inspect(reason)}")

    :telemetry.execute([:foundation, :event_log, :damaged], %{count: 1}, %{
      log: log,
      path: path,
      reason: reason
    })
  end

  defp engine_cause do
    case {Engine.selected(), Library.path()} do
      {_engine, {:error, cause}} -> cause
      {:ets, _path} -> "an event log needs the native engine, and :ets is selected"
      {:native, _path} -> "the native library is not loaded"
    end
  end

  @impl true
  # The commit thread has failed, and every caller that waited got an error. The successor opens the
  # log from its files.
  def handle_info({:foundation_event_log, :ended}, settings),
    do: {:stop, :commit_thread_ended, settings}

  # Linked to nobody but the parent, whose exit never comes here: somebody sent this signal,
  # and an owner that did not trap exits would obey it.
  def handle_info({:EXIT, _from, :normal}, settings), do: {:noreply, settings}
  def handle_info({:EXIT, _from, reason}, settings), do: {:stop, reason, settings}
  def handle_info(_other, settings), do: {:noreply, settings}

  @impl true
  def handle_call(_unknown, _from, settings), do: {:reply, {:error, :unknown_call}, settings}

  @impl true
  def handle_cast(_other, settings), do: {:noreply, settings}

  @impl true
  def terminate(reason, settings) do
    if ExitReason.orderly?(reason), do: Native.event_log_stop(settings.name)
  end
end
