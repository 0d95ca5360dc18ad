defmodule Foundation.Telemetry.Tables do
  @moduledoc false
  # Owns the tables of spans and events, and does nothing else: so nothing that is done with
  # them can bring it down. Its orderly stop destroys them. When it is killed those of the
  # native engine stay as they are, and its successor takes them over.

  use GenServer

  alias Foundation.ExitReason
  alias Foundation.Legacy
  alias Foundation.Telemetry.{Events, Span}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: __MODULE__)

  @doc """
  Whether the tables exist, by name.
  """
  @spec exist?() :: %{span_contexts: boolean, sampled_events_state: boolean}
  def exist? do
    %{
      span_contexts: Span.Backend.running() != nil,
      sampled_events_state: Events.Backend.running() != nil
    }
  end

  @doc """
  The engine of the tables, `nil` when there are none.
  """
  @spec engine() :: Foundation.Engine.t() | nil
  def engine do
    case Events.Backend.running() do
      Events.Backends.Native -> :native
      Events.Backends.ETS -> :ets
      nil -> nil
    end
  end

  @impl true
  def init(options) do
    # So that terminate/2 runs when the supervisor stops it.
    Process.flag(:trap_exit, true)
    engine = Keyword.fetch!(options, :engine)
    {events, spans} = {Events.Backend.of_engine(engine), Span.Backend.of_engine(engine)}
    settings = Events.Settings.read!()
    Legacy.Telemetry.divert()
    events.open(settings)
    spans.open()
    {:ok, %{events: events, spans: spans}}
  end

  @impl true
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info(_unknown, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    if ExitReason.orderly?(reason) do
      # The batch processor has stopped before, and callers have gone on since.
      state.events.seal()
      Events.BatchProcessor.drain(state.events)
      state.events.close()
      state.spans.close()
    end
  end
end
