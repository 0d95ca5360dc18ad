defmodule Foundation.Registry.Locks do
  @moduledoc false
  # `Foundation.Registry.lock/4`: one holder a lock, the others in the order they came. A holder
  # may also finish the lock with an outcome, which all that wait for it get (`SingleFlight`).
  #
  # Holders and waiters are in a table too, in rows `{ticket, lock, pid, state}` with growing
  # tickets. When this process or its supervisor is killed, holders continue and waiters ask again
  # (`RetryingCall`). The successor finds both in the table, so a lock never has two holders.
  #
  # The time of a waiter ends here and not in the waiter. So either the waiter has the lock or its
  # row is gone, also when the grant and the end of the time meet.

  use GenServer

  alias Foundation.RetryingCall

  @table __MODULE__

  defmodule Request do
    @moduledoc false
    # `from` is nil while a waiter that the predecessor left has not asked again.
    defstruct [:lock, :pid, :from, :monitor, :timer]
  end

  @type ticket :: integer
  @type lock :: {atom, term} | {module, atom, term}

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Creates the table, which belongs to the caller: it must live as long as the application."
  @spec open_table() :: :ok
  def open_table do
    @table = :ets.new(@table, [:named_table, :public, :ordered_set, write_concurrency: true])
    :ok
  end

  @doc "Runs `fun` in the caller while it holds the lock; `:timeout` if it does not get it in time."
  @spec run(lock, timeout, (() -> result)) :: {:ok, result} | :timeout when result: var
  def run(lock, timeout, fun) do
    ticket = ticket()

    try do
      with :ok <- RetryingCall.call(__MODULE__, {:acquire, ticket, lock, deadline(timeout)}),
           do: {:ok, fun.()}
    after
      release(ticket)
    end
  end

  @doc "Returns what a request is known by. Tickets of later requests are greater."
  @spec ticket() :: ticket
  def ticket, do: :erlang.unique_integer([:monotonic])

  @doc """
  Requests a lock whose holder ends it by `finish/2`.

  Returns `:ok` to the holder and `{:outcome, outcome}` to those that waited for it. A process that
  has the lock already gets `:holder`.
  """
  @spec join(ticket, lock) :: :ok | {:outcome, term} | :holder
  def join(ticket, lock), do: RetryingCall.call(__MODULE__, {:join, ticket, lock})

  @doc "Ends the holder's lock: all that wait for it get the outcome."
  @spec finish(ticket, term) :: :ok
  def finish(ticket, outcome), do: RetryingCall.call(__MODULE__, {:finish, ticket, outcome})

  @doc "Gives up a ticket, and the lock that goes with it, to the next in the queue."
  @spec release(ticket) :: :ok
  def release(ticket) do
    # The row first: a successor of this server must not find a lock that is given back.
    :ets.delete(@table, ticket)
    GenServer.cast(__MODULE__, {:release, ticket})
  end

  # Absolute, so that asking again after a restart of the server begins no new wait.
  defp deadline(:infinity), do: :infinity
  defp deadline(0), do: now()
  # A part of the current millisecond is over.
  defp deadline(timeout), do: now() + timeout + 1

  defp now, do: System.monotonic_time(:millisecond)

  # State: the requests by ticket, and for each lock its holder's ticket and the tickets that wait,
  # in a set, since a waiter may leave from the middle.

  @impl true
  def init(nil), do: {:ok, take_over(%{requests: %{}, locks: %{}})}

  @impl true
  def handle_call({:acquire, ticket, lock, deadline}, {pid, _tag} = from, state) do
    state = ask(state, ticket, lock, pid, from)

    cond do
      holder?(state, lock, ticket) -> {:noreply, state}
      deadline == :infinity -> {:noreply, state}
      deadline <= now() -> {:reply, :timeout, drop(state, ticket)}
      true -> {:noreply, start_timer(state, ticket, deadline)}
    end
  end

  def handle_call({:join, ticket, lock}, {pid, _tag} = from, state) do
    case {:ets.lookup(@table, ticket), holder(state, lock)} do
      {[{_ticket, _lock, _pid, {:outcome, outcome}}], _holder} ->
        {:reply, {:outcome, outcome}, drop(state, ticket)}

      {[], %Request{pid: ^pid}} ->
        {:reply, :holder, state}

      {_row, _holder} ->
        {:noreply, ask(state, ticket, lock, pid, from)}
    end
  end

  def handle_call({:finish, ticket, outcome}, _from, state),
    do: {:reply, :ok, share(state, ticket, outcome)}

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:release, ticket}, state), do: {:noreply, drop(state, ticket)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({{:down, ticket}, _ref, :process, _pid, _reason}, state),
    do: {:noreply, drop(state, ticket)}

  def handle_info({:timeout, timer, ticket}, state) do
    case state.requests do
      %{^ticket => %Request{timer: ^timer, from: from}} ->
        GenServer.reply(from, :timeout)
        {:noreply, drop(state, ticket)}

      # It was granted meanwhile.
      %{} ->
        {:noreply, state}
    end
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Holders before waiters, both in the order of their tickets.
  defp take_over(state) do
    rows = :ets.tab2list(@table)
    {held, others} = Enum.split_with(rows, &match?({_, _, _, :held}, &1))
    {waiting, told} = Enum.split_with(others, &match?({_, _, _, :waiting}, &1))

    state =
      for {ticket, lock, pid, _state} <- held ++ waiting, reduce: state do
        state -> enter(state, ticket, lock, pid, nil)
      end

    for {ticket, lock, pid, _outcome} <- told, reduce: state do
      state -> put_in(state.requests[ticket], request(ticket, lock, pid, nil))
    end
  end

  # A new request, or one that is made again after a restart of this server.
  defp ask(state, ticket, lock, pid, from) do
    case state.requests do
      %{^ticket => request} ->
        state = put_in(state.requests[ticket], %{request | from: from})
        if holder?(state, lock, ticket), do: grant(state, ticket), else: state

      %{} ->
        enter(state, ticket, lock, pid, from)
    end
  end

  defp enter(state, ticket, lock, pid, from) do
    request = request(ticket, lock, pid, from)
    # The row comes after the monitor: that deletes it if the caller is dead already.
    :ets.insert_new(@table, {ticket, lock, pid, :waiting})
    state = put_in(state.requests[ticket], request)

    case state.locks do
      %{^lock => {holder, queue}} ->
        put_in(state.locks[lock], {holder, :gb_sets.add_element(ticket, queue)})

      %{} ->
        state |> hold(lock, ticket, :gb_sets.new()) |> grant(ticket)
    end
  end

  defp request(ticket, lock, pid, from) do
    monitor = :erlang.monitor(:process, pid, tag: {:down, ticket})
    %Request{lock: lock, pid: pid, from: from, monitor: monitor}
  end

  defp start_timer(state, ticket, deadline) do
    timer = :erlang.start_timer(deadline, self(), ticket, abs: true)
    put_in(state.requests[ticket].timer, timer)
  end

  # The row too: a request that its caller gave up may have got one since.
  defp drop(state, ticket) do
    :ets.delete(@table, ticket)
    leave(state, ticket)
  end

  defp leave(state, ticket) do
    case pop_in(state.requests[ticket]) do
      {nil, state} ->
        state

      {request, state} ->
        forget(request)
        leave(state, request.lock, ticket, state.locks)
    end
  end

  defp leave(state, lock, ticket, locks) do
    case locks do
      %{^lock => {^ticket, queue}} ->
        pass_on(state, lock, queue)

      %{^lock => {holder, queue}} ->
        put_in(state.locks[lock], {holder, :gb_sets.del_element(ticket, queue)})

      %{} ->
        state
    end
  end

  # A late message of either finds no request.
  defp forget(request) do
    # Without :flush, which would look through the mailbox.
    Process.demonitor(request.monitor)
    cancel(request.timer)
  end

  defp cancel(nil), do: :ok
  defp cancel(timer), do: :erlang.cancel_timer(timer)

  defp pass_on(state, lock, queue) do
    if :gb_sets.is_empty(queue) do
      %{state | locks: Map.delete(state.locks, lock)}
    else
      {ticket, queue} = :gb_sets.take_smallest(queue)
      state |> hold(lock, ticket, queue) |> grant(ticket)
    end
  end

  defp hold(state, lock, ticket, queue), do: put_in(state.locks[lock], {ticket, queue})

  defp holder(state, lock) do
    case state.locks do
      %{^lock => {ticket, _queue}} -> Map.fetch!(state.requests, ticket)
      %{} -> nil
    end
  end

  defp holder?(state, lock, ticket), do: match?(%{^lock => {^ticket, _queue}}, state.locks)

  # Noted in the table before the holder knows: a successor may at worst wait for a holder
  # that has not heard yet, and will ask.
  defp grant(state, ticket) do
    :ets.update_element(@table, ticket, {4, :held})
    request = Map.fetch!(state.requests, ticket)
    cancel(request.timer)
    if request.from, do: GenServer.reply(request.from, :ok)
    # Without its timer: a message of it that is here already must not end the holder's lock.
    put_in(state.requests[ticket].timer, nil)
  end

  # A finish that is asked for again finds only those that have come since the first.
  defp share(state, ticket, outcome) do
    case state.requests do
      %{^ticket => %Request{lock: lock}} ->
        {{^ticket, queue}, locks} = Map.pop!(state.locks, lock)
        state = drop(%{state | locks: locks}, ticket)
        :gb_sets.fold(&tell(&2, &1, outcome), state, queue)

      %{} ->
        state
    end
  end

  # A waiter that has not asked this server yet finds the outcome in its row, of the next server
  # too.
  defp tell(state, ticket, outcome) do
    case Map.fetch!(state.requests, ticket) do
      %Request{from: nil} ->
        :ets.update_element(@table, ticket, {4, {:outcome, outcome}})
        state

      %Request{from: from} ->
        GenServer.reply(from, {:outcome, outcome})
        drop(state, ticket)
    end
  end
end
