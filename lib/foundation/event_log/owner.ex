defmodule Foundation.EventLog.Owner do
  @moduledoc false
  # Owns an open log; see `Foundation.Owner`. After a crash of the owner the log stays open and its
  # callers go on.

  @behaviour Foundation.Owner

  require Logger

  alias Foundation.{Engine, Native, Owner}
  alias Foundation.EventLog.Settings

  @spec start_link(Settings.t()) :: GenServer.on_start()
  def start_link(%Settings{} = settings), do: Owner.start_link(__MODULE__, settings)

  @impl true
  def open(%Settings{name: name} = settings) do
    case start(settings) do
      started when started in [:created, :adopted] ->
        {:ok, settings}

      {:recovered, path, cut_bytes} ->
        measurements = %{cut_bytes: cut_bytes}

        :telemetry.execute([:foundation, :event_log, :recover], measurements, %{
          log: name,
          path: path
        })

        {:ok, settings}

      {:error, {:damaged, path, reason}} = error ->
        report_damage(name, path, reason)
        error

      {:error, _reason} = error ->
        error

      nil ->
        {:error, {:engine, engine_cause()}}
    end
  end

  defp start(settings) do
    Native.event_log_start(
      settings.name,
      settings.dir,
      settings.sync_ms,
      settings.segment_bytes,
      settings.max_event_bytes,
      settings.adopt_timeout
    )
  end

  defp engine_cause do
    case Engine.selected() do
      :ets -> "an event log needs the native engine, and #{Engine.why_not_native()}"
      :native -> "the native library is not loaded"
    end
  end

  @impl true
  def owner?(name, pid), do: Native.event_log_owner(name) == pid

  @impl true
  def close(%Settings{name: name}), do: Native.event_log_stop(name)

  @impl true
  # The commit thread has failed, and every caller that waited got an error. The successor opens the
  # log from its files.
  def handle_message({:foundation_event_log, :ended}, _settings), do: exit(:commit_thread_ended)
  def handle_message(_unknown, settings), do: settings

  @impl true
  def handle_request(_unknown, _from, settings), do: {:reply, {:error, :unknown_call}, settings}

  @doc "Reports a damaged file: an event and a log entry."
  @spec report_damage(atom, Path.t(), term) :: :ok
  def report_damage(log, path, reason) do
    Logger.error("the event log #{inspect(log)} is damaged: #{path}: #{inspect(reason)}")
    metadata = %{log: log, path: path, reason: reason}
    :telemetry.execute([:foundation, :event_log, :damaged], %{count: 1}, metadata)
  end
end
