defmodule Foundation.Telemetry.Span.Server do
  @moduledoc false
  # Ends the spans of processes that died: the process named `Foundation.Telemetry.Span`. It
  # keeps nothing: open spans are in the table, and a successor asks the table who died. A span
  # is forgotten once its event has been emitted: a kill in between repeats one, and loses none.

  use GenServer

  alias Foundation.Telemetry.Span.{Backend, Events}

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    GenServer.start_link(__MODULE__, nil, name: Keyword.fetch!(options, :name))
  end

  @impl true
  def init(nil) do
    backend = Backend.running!()
    backend.watch()
    {:ok, backend}
  end

  @impl true
  def handle_call(_unknown, _from, backend), do: {:reply, {:error, :unknown_call}, backend}

  @impl true
  def handle_cast(_unknown, backend), do: {:noreply, backend}

  @impl true
  def handle_info(message, backend) do
    case backend.abandoned(message) do
      {spans, more, dropped} ->
        if dropped > 0, do: Events.dropped(dropped)
        Enum.each(spans, &tell(&1, backend))
        # Through the mailbox, so that a mass death does not keep system messages waiting.
        if more == :more, do: send(self(), :abandoned)

      # A message that a handler's code left behind.
      :ignored ->
        :ok
    end

    {:noreply, backend}
  end

  defp tell({span, token}, backend) do
    Events.abandoned(span)
    backend.forget(token)
  end
end
