defmodule Foundation.Telemetry.Events.BatchProcessor do
  @moduledoc false
  # Emits batches: the process named `Foundation.Telemetry.SampledEvents`.
  #
  # Notification is edge-triggered. Callers append to the table themselves. They notify this
  # process of the event that begins a batch, which starts the batch's timer, and of the event
  # that fills it. A batch stays in its table until it has been emitted. The only state of this
  # process is its timers, and a successor rebuilds them from the tables. A notification is lost
  # while this process is down, or when a caller is killed between append and notification. The
  # tick finds such batches.

  use GenServer

  alias Foundation.{ExitReason, RetryingCall}
  alias Foundation.Telemetry.Events.{Backend, Batch, Settings}

  # How often expired windows are closed and lost edges looked for, in milliseconds.
  @tick 1_000

  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    GenServer.start_link(__MODULE__, nil, name: Keyword.fetch!(options, :name))
  end

  @doc """
  Tells the processor that an event began (`:first`) or filled (`:full`) a batch, or that the
  settings of its batches have `:changed`.
  """
  @spec tell(GenServer.server(), [atom, ...], :first | :full | :changed) :: :ok
  def tell(server, name, edge), do: GenServer.cast(server, {edge, name})

  @doc """
  Emits what is pending of one event, or of all.
  """
  @spec flush(atom, [atom, ...] | :all) :: :ok
  def flush(server, name) do
    if Process.whereis(server) == self() do
      # A handler of the batch that is being emitted: it cannot wait for its own end.
      GenServer.cast(server, {:flush, name})
    else
      # As long as it takes: a timeout would leave the caller with a batch half known. A
      # processor that is killed has a successor, who finds what is pending.
      RetryingCall.call(server, {:flush, name})
    end
  end

  @doc """
  Emits what is pending, in the caller: what came in after the processor's orderly stop, before
  the tables go.
  """
  @spec drain(module) :: :ok
  def drain(backend) do
    for {name, %{pending: pending}} when pending > 0 <- backend.totals() do
      size = backend.settings(name).batch_size
      emit(div(pending + size - 1, size), name, size, backend)
    end

    :ok
  end

  @impl true
  def init(nil) do
    # So that an orderly stop runs terminate/2, which emits what is pending.
    Process.flag(:trap_exit, true)
    Process.send_after(self(), :tick, @tick)
    {:ok, %{backend: Backend.running!(), timers: %{}}, {:continue, :arm}}
  end

  @impl true
  def handle_continue(:arm, state), do: {:noreply, settle_all(state)}

  @impl true
  def handle_cast({:first, name}, state), do: {:noreply, arm(name, state)}
  def handle_cast({:full, name}, state), do: {:noreply, settle(name, state)}
  # The timer that runs is for the timeout as it was.
  def handle_cast({:changed, name}, state), do: {:noreply, settle(name, disarm(name, state))}
  def handle_cast({:flush, name}, state), do: {:noreply, flush_now(name, state)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_call({:flush, name}, _from, state), do: {:reply, :ok, flush_now(name, state)}
  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_info({:timeout, timer, name}, state) do
    case state.timers do
      %{^name => ^timer} -> {:noreply, flush_one(name, state)}
      # It fired while its batch was being emitted.
      _timers -> {:noreply, state}
    end
  end

  def handle_info(:tick, state) do
    state.backend.sweep()
    Process.send_after(self(), :tick, @tick)
    {:noreply, settle_all(state)}
  end

  # Exits of linked processes, and messages that the code of a handler left behind.
  def handle_info(_other, state), do: {:noreply, state}

  @impl true
  def terminate(reason, state) do
    # A crash leaves everything to the successor; an orderly stop may have none. It is also
    # how this process goes when the tables' owner was killed, and the tables with it.
    if ExitReason.orderly?(reason) and Backend.running() == state.backend,
      do: Enum.each(pending(state), &flush_one(&1, state))
  end

  defp settle_all(state), do: Enum.reduce(pending(state), state, &settle/2)

  defp pending(state),
    do: for({name, %{pending: n}} when n > 0 <- state.backend.totals(), do: name)

  # Emits the batches that are full now, and has a timer run for the rest.
  defp settle(name, state) do
    {size, pending} = size_and_pending(name, state)
    full = div(pending, size)

    if full > 0,
      do: emit_and_rest(full, name, size, state),
      else: rest(name, state)
  end

  defp flush_now(:all, state), do: Enum.reduce(pending(state), state, &flush_one/2)
  defp flush_now(name, state), do: flush_one(name, state)

  defp flush_one(name, state) do
    {size, pending} = size_and_pending(name, state)
    emit_and_rest(div(pending + size - 1, size), name, size, state)
  end

  defp emit_and_rest(batches, name, size, state) do
    state = disarm(name, state)
    emit(batches, name, size, state.backend)
    rest(name, state)
  end

  defp size_and_pending(name, state) do
    {state.backend.settings(name).batch_size, state.backend.totals(name).pending}
  end

  # Only what was pending is emitted in one go: a handler that appends to the event it
  # handles must not keep this process from its mailbox.
  defp rest(name, state) do
    case size_and_pending(name, state) do
      {_size, 0} ->
        disarm(name, state)

      {size, pending} when pending < size ->
        arm(name, state)

      _full ->
        tell(self(), name, :full)
        state
    end
  end

  defp emit(0, _name, _size, _backend), do: :ok

  defp emit(batches, name, size, backend) do
    case backend.peek(name, size) do
      {[], _token} ->
        :ok

      {events, token} ->
        Batch.execute(name, events)
        backend.ack(name, token)
        emit(batches - 1, name, size, backend)
    end
  end

  defp arm(name, %{timers: timers} = state) when is_map_key(timers, name), do: state

  defp arm(name, state) do
    timeout = state.backend.settings(name).batch_timeout

    if Settings.never?(timeout) do
      state
    else
      timer = :erlang.start_timer(timeout, self(), name)
      %{state | timers: Map.put(state.timers, name, timer)}
    end
  end

  defp disarm(name, state) do
    case Map.pop(state.timers, name) do
      {nil, _timers} ->
        state

      {timer, timers} ->
        :erlang.cancel_timer(timer)
        %{state | timers: timers}
    end
  end
end
