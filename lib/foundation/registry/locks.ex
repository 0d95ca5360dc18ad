defmodule Foundation.Registry.Locks do
  @moduledoc false
  # `Foundation.Registry.lock/3`: one holder a lock, the others in the order they came.
  #
  # Holders and waiters are in a table too, in rows `{ticket, lock, pid, state}` with growing
  # tickets. When this process or its supervisor is killed, holders continue and waiters ask again
  # (`RetryingCall`). The successor finds both in the table, so a lock never has two holders.

  use GenServer

  alias Foundation.RetryingCall

  @table __MODULE__

  defmodule Request do
    @moduledoc false
    # `from` is nil while a waiter that the predecessor left has not asked again.
    defstruct [:lock, :from, :monitor]
  end

  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Creates the table, which belongs to the caller: it must live as long as the application."
  @spec open_table() :: :ok
  def open_table do
    @table = :ets.new(@table, [:named_table, :public, :ordered_set, write_concurrency: true])
    :ok
  end

  @doc "Runs `fun` in the caller while it holds the lock."
  @spec run(atom, term, (() -> result)) :: result when result: var
  def run(registry, key, fun) do
    ticket = :erlang.unique_integer([:monotonic])
    lock = {registry, key}

    try do
      RetryingCall.call(__MODULE__, {:acquire, ticket, lock})
      fun.()
    after
      # The row first: a successor of this server must not find a lock that is given back.
      :ets.delete(@table, ticket)
      GenServer.cast(__MODULE__, {:release, ticket})
    end
  end

  # State: the requests by ticket, and for each lock its holder's ticket and the queue of
  # the waiting ones. A waiter that gave up stays in the queue until its turn.

  @impl true
  def init(nil), do: {:ok, take_over(%{requests: %{}, locks: %{}})}

  @impl true
  def handle_call({:acquire, ticket, lock}, {pid, _tag} = from, state) do
    case state.requests do
      %{^ticket => request} ->
        state = put_in(state.requests[ticket], %{request | from: from})
        {:noreply, if(holder?(state, lock, ticket), do: grant(state, ticket), else: state)}

      %{} ->
        {:noreply, enter(state, ticket, lock, pid, from)}
    end
  end

  def handle_call(_unknown, _from, state), do: {:reply, {:error, :unknown_call}, state}

  @impl true
  def handle_cast({:release, ticket}, state), do: {:noreply, leave(state, ticket)}
  def handle_cast(_unknown, state), do: {:noreply, state}

  @impl true
  def handle_info({{:down, ticket}, _ref, :process, _pid, _reason}, state) do
    :ets.delete(@table, ticket)
    {:noreply, leave(state, ticket)}
  end

  def handle_info(_other, state), do: {:noreply, state}

  # Holders before waiters, both in the order of their tickets.
  defp take_over(state) do
    {held, waiting} = Enum.split_with(:ets.tab2list(@table), &match?({_, _, _, :held}, &1))

    for {ticket, lock, pid, _state} <- held ++ waiting, reduce: state do
      state -> enter(state, ticket, lock, pid, nil)
    end
  end

  defp enter(state, ticket, lock, pid, from) do
    monitor = :erlang.monitor(:process, pid, tag: {:down, ticket})
    # The row comes after the monitor: that deletes it if the caller is dead already.
    :ets.insert_new(@table, {ticket, lock, pid, :waiting})
    request = %Request{lock: lock, from: from, monitor: monitor}
    state = put_in(state.requests[ticket], request)

    case state.locks do
      %{^lock => {holder, queue}} ->
        put_in(state.locks[lock], {holder, :queue.in(ticket, queue)})

      %{} ->
        state |> hold(lock, ticket, :queue.new()) |> grant(ticket)
    end
  end

  defp leave(state, ticket) do
    case pop_in(state.requests[ticket]) do
      {nil, state} ->
        state

      {request, state} ->
        # Without :flush, which would look through the mailbox: a late message finds no request.
        Process.demonitor(request.monitor)
        if holder?(state, request.lock, ticket), do: pass_on(state, request.lock), else: state
    end
  end

  defp pass_on(state, lock) do
    {_holder, queue} = state.locks[lock]

    case next(queue, state.requests) do
      {ticket, queue} -> state |> hold(lock, ticket, queue) |> grant(ticket)
      :none -> %{state | locks: Map.delete(state.locks, lock)}
    end
  end

  defp next(queue, requests) do
    case :queue.out(queue) do
      {:empty, _queue} -> :none
      {{:value, ticket}, queue} when is_map_key(requests, ticket) -> {ticket, queue}
      {{:value, _gone}, queue} -> next(queue, requests)
    end
  end

  defp hold(state, lock, ticket, queue), do: put_in(state.locks[lock], {ticket, queue})

  defp holder?(state, lock, ticket), do: match?(%{^lock => {^ticket, _queue}}, state.locks)

  # Noted in the table before the holder knows: a successor may at worst wait for a holder
  # that has not heard yet, and will ask.
  defp grant(state, ticket) do
    :ets.update_element(@table, ticket, {4, :held})

    with %Request{from: {_pid, _tag} = from} <- state.requests[ticket],
         do: GenServer.reply(from, :ok)

    state
  end
end
