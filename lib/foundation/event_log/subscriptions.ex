defmodule Foundation.EventLog.Subscriptions do
  @moduledoc false
  # Supervises the processes that send the events of subscriptions. A log's own supervisor does not:
  # a restart of the log's owner leaves them in place.
  #
  # A server that is killed is started again by this supervisor and finds its position in the log.
  # When the supervisor itself is killed, its servers die with it. The logs remember them, and the
  # next supervisor starts them again, so that no subscriber waits for events in vain.

  use DynamicSupervisor

  alias Foundation.{Native, Predecessor}
  alias Foundation.EventLog.SubscriptionServer

  # How long a caller waits for a supervisor that is restarting, and how often it looks.
  @patience_ms 5_000
  @pause_ms 2

  @doc false
  def start_link(options) do
    Predecessor.await_gone([__MODULE__])
    # The predecessor's servers learn of its death one by one.
    for {server, _arguments} <- servers(), do: Predecessor.gone?(server)

    with {:ok, supervisor} <- DynamicSupervisor.start_link(__MODULE__, options, name: __MODULE__) do
      resume(supervisor)
      {:ok, supervisor}
    end
  end

  @impl true
  def init(_options),
    do: DynamicSupervisor.init(strategy: :one_for_one, max_restarts: 1_000, max_seconds: 5)

  defp servers do
    for log <- Native.event_log_names() || [],
        server <- Native.event_log_subscriptions(log) || [],
        do: server
  end

  # A subscriber that subscribes again in between has a new server, and keeps that.
  defp resume(supervisor) do
    for {server, arguments} <- servers(),
        not Process.alive?(server),
        do: start(supervisor, arguments)
  catch
    # Killed again: the next supervisor resumes them.
    :exit, _reason -> :ok
  end

  @doc "Starts the server of a subscription; waits for the supervisor while it restarts."
  @spec start_server(tuple) :: {:ok, pid}
  def start_server(arguments), do: start_server(arguments, now() + @patience_ms)

  defp start_server(arguments, deadline) do
    start(__MODULE__, arguments)
  catch
    # Nothing was started.
    :exit, {:noproc, _call} = reason ->
      if now() > deadline, do: exit(reason)
      Process.sleep(@pause_ms)
      start_server(arguments, deadline)
  end

  @doc """
  Ends a subscription with this id, or with any: `:ok` also if there is none. A server that was killed
  has a successor, which is asked then.
  """
  @spec stop_server(atom, binary, reference | :any) :: :ok
  def stop_server(log, key, id), do: stop_server(log, key, id, now() + @patience_ms)

  defp stop_server(log, key, id, deadline) do
    case Native.event_log_server(log, key) do
      server when is_pid(server) -> GenServer.call(server, {:stop, id}, :infinity)
      _none_or_closed -> :ok
    end
  catch
    :exit, _reason ->
      # Without a successor by then its subscriber is dead too.
      if now() < deadline do
        Process.sleep(@pause_ms)
        stop_server(log, key, id, deadline)
      else
        :ok
      end
  end

  defp start(supervisor, arguments),
    do: {:ok, _pid} = DynamicSupervisor.start_child(supervisor, {SubscriptionServer, arguments})

  defp now, do: System.monotonic_time(:millisecond)
end
