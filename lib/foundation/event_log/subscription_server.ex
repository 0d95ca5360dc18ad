defmodule Foundation.EventLog.SubscriptionServer do
  @moduledoc false
  # Sends the events of one subscription to its subscriber.
  #
  # It reads the stored events (catching up). At the end it asks the log for one message at the next
  # event (live). Both are the same loop, so no event falls between them. At most `max_in_flight`
  # events are sent and not acknowledged. The acknowledged position is the log's, so this process
  # can be killed at any time: its successor goes on from there.

  use GenServer, restart: :transient

  alias Foundation.EventLog.{Owner, ReadError, Reader, Subscription, Writer}
  alias Foundation.Native

  # A message has this many events at most, so that a subscriber begins early.
  @per_message 100

  # How often it looks for a log that is opened again.
  @reopening_ms 50

  # `cursor` is the last version or position that was sent. Nothing before it is still to be sent.
  # `in_flight` has the numbers that were sent and not acknowledged. `count` says how many.
  @enforce_keys [:subscription, :key, :subscriber, :from, :max_in_flight]
  defstruct [
    :subscription,
    :key,
    :subscriber,
    :from,
    :max_in_flight,
    :monitor,
    cursor: 0,
    in_flight: :queue.new(),
    count: 0
  ]

  @doc false
  def start_link(arguments), do: GenServer.start_link(__MODULE__, arguments)

  @impl true
  def init({subscription, subscriber, from, max_in_flight}) do
    state = %__MODULE__{
      subscription: subscription,
      key: Subscription.key(subscription.name),
      subscriber: subscriber,
      from: from,
      max_in_flight: max_in_flight
    }

    {:ok, state, {:continue, :subscribe}}
  end

  @impl true
  # The caller of subscribe/4 waits under an alias, which ends with the first message to it: that of
  # a successor goes nowhere.
  def handle_continue(:subscribe, state) do
    id = state.subscription.id
    state = %{state | monitor: Process.monitor(state.subscriber)}

    case subscribe(state) do
      {:ok, acknowledged} ->
        send(id, {id, :subscribed})
        deliver(%{state | cursor: acknowledged})

      {:error, reason} ->
        send(id, {id, {:error, reason}})
        {:stop, :normal, state}
    end
  end

  defp subscribe(%{subscription: %{log: log, stream: stream}, subscriber: subscriber} = state) do
    arguments = {state.subscription, subscriber, state.from, state.max_in_flight}
    Writer.subscribe(log, state.key, stream, state.from, subscriber, arguments)
  rescue
    # It is raised in the caller of subscribe/4, which knows the log's name.
    ArgumentError -> {:error, :unknown_log}
  end

  @impl true
  def handle_call({:stop, id}, _from, state) do
    if id in [state.subscription.id, :any] do
      release(state)
      {:stop, :normal, :ok, state}
    else
      {:reply, :ok, state}
    end
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast(_other, state), do: {:noreply, state}

  @impl true
  def handle_info({:foundation_event_log, :appended}, state), do: deliver(state)

  def handle_info({:foundation_event_log, :acknowledged}, state) do
    case Native.event_log_acknowledged(state.subscription.log, state.key) do
      number when is_integer(number) -> state |> drop_acknowledged(number) |> deliver()
      # Forgotten, taken over by another subscriber, or the log is closed.
      _other -> {:stop, :normal, state}
    end
  end

  def handle_info({:foundation_event_log, :closed}, state), do: {:stop, :normal, state}

  # The log's commit thread has failed, and its owner's successor opens the log again.
  def handle_info({:foundation_event_log, :ended}, state) do
    case subscribe(state) do
      {:ok, acknowledged} ->
        deliver(%{state | cursor: acknowledged, in_flight: :queue.new(), count: 0})

      {:error, :unknown_log} ->
        Process.send_after(self(), {:foundation_event_log, :ended}, @reopening_ms)
        {:noreply, state}

      # Another subscriber has the name.
      {:error, _reason} ->
        {:stop, :normal, state}
    end
  end

  def handle_info({:DOWN, monitor, :process, _pid, _reason}, %{monitor: monitor} = state) do
    release(state)
    {:stop, :normal, state}
  end

  def handle_info(_other, state), do: {:noreply, state}

  defp release(state) do
    Native.event_log_release(state.subscription.log, state.key, state.subscription.stream)
  end

  defp drop_acknowledged(state, number) do
    case :queue.peek(state.in_flight) do
      {:value, sent} when sent <= number ->
        in_flight = :queue.drop(state.in_flight)
        drop_acknowledged(%{state | in_flight: in_flight, count: state.count - 1}, number)

      _later_or_empty ->
        %{state | cursor: max(state.cursor, number)}
    end
  end

  defp deliver(%{count: count, max_in_flight: max} = state) when count >= max,
    do: {:noreply, state}

  defp deliver(state) do
    %{log: log, stream: stream} = state.subscription
    # Before the read: whatever is up to here is in it, unless it was removed.
    newest = Reader.newest(log, stream)
    limit = min(state.max_in_flight - state.count, @per_message)

    case read(log, stream, state.cursor + 1, limit) do
      [] ->
        cursor = max(state.cursor, newest)
        :ok = Native.event_log_watch(log, stream, cursor, self()) || :ok
        {:noreply, %{state | cursor: cursor}}

      events ->
        send(state.subscriber, {:events, state.subscription, events})
        deliver(sent(state, events))
    end
  rescue
    error in ReadError ->
      Owner.report_damage(error.log, inspect(state.subscription.name), error.reason)
      release(state)
      {:stop, :normal, state}

    # The log is closed, which a message tells: `:closed` or `:ended`.
    ArgumentError ->
      {:noreply, state}
  end

  defp read(log, stream, from, limit) do
    {events, _next} = Reader.chunk(log, stream, from, Reader.last(), limit)
    events
  end

  defp sent(state, events) do
    numbers = Enum.map(events, &number(state.subscription.stream, &1))
    in_flight = Enum.reduce(numbers, state.in_flight, &:queue.in/2)

    %{
      state
      | in_flight: in_flight,
        count: state.count + length(numbers),
        cursor: List.last(numbers)
    }
  end

  @doc "The number that a subscription counts an event by."
  @spec number(String.t() | :all, Foundation.EventLog.Event.t()) :: pos_integer
  def number(:all, event), do: event.position
  def number(_stream, event), do: event.version
end
