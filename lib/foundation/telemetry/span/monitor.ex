defmodule Foundation.Telemetry.Span.Monitor do
  @moduledoc false
  # Monitors the processes that have had a span, where the native library does not. Handlers of
  # `:abandoned` run in the span process. If that one monitored, a handler that blocks would let
  # deaths and their spans pile up without a bound.
  #
  # A request to watch is lost while this process is away. So the caller marks itself in the table
  # first, and a new monitor watches all processes with a mark.

  use GenServer

  alias Foundation.Telemetry.Span.Backends.ETS.Abandoned

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Watches the calling process."
  @spec watch() :: :ok
  def watch do
    # `send/2` to an unregistered name would raise.
    with pid when is_pid(pid) <- Process.whereis(__MODULE__), do: send(pid, {:watch, self()})
    :ok
  end

  @impl true
  def init(nil) do
    Enum.each(Abandoned.watched(), &Process.monitor/1)
    {:ok, nil}
  end

  @impl true
  def handle_call(_unknown, _from, nil), do: {:reply, {:error, :unknown_call}, nil}

  @impl true
  def handle_cast(_unknown, nil), do: {:noreply, nil}

  @impl true
  def handle_info({:watch, pid}, nil) when is_pid(pid) do
    Process.monitor(pid)
    {:noreply, nil}
  end

  def handle_info({:DOWN, _ref, :process, pid, _reason}, nil) when node(pid) == node() do
    # A stray message may say so of a process that is alive.
    unless Process.alive?(pid), do: Abandoned.died(pid)
    {:noreply, nil}
  end

  def handle_info(_unknown, nil), do: {:noreply, nil}
end
