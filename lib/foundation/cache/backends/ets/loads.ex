defmodule Foundation.Cache.Backends.ETS.Loads do
  @moduledoc false
  # The loads under way in the ETS engine, and the callers that wait for them. They are in two
  # tables of the application's own process, which outlives the servers:
  #
  #     {{:lease, name, lease}, key, loader, epoch, since}
  #     {{:key, name, key}, lease}                 the load that callers of a key wait for
  #     {{:wait, name, ref}, lease, n}
  #     {{name, lease, n}, ref, waiter}            in the order of arrival
  #
  # A lease without its row of the key, or of an earlier epoch, has ended: a write came after it.

  @loads Module.concat(__MODULE__, Loads)
  @waiters Module.concat(__MODULE__, Waiters)

  @type lease :: reference
  @type load :: %{
          lease: lease,
          key: term,
          loader: pid,
          epoch: integer,
          since: integer
        }

  @spec open_tables() :: :ok
  def open_tables do
    :ets.new(@loads, [:named_table, :public, :set, write_concurrency: true])
    :ets.new(@waiters, [:named_table, :public, :ordered_set, write_concurrency: true])
    :ok
  end

  @spec get(atom, lease) :: load | nil
  def get(name, lease) do
    case :ets.lookup(@loads, {:lease, name, lease}) do
      [{_id, key, loader, epoch, since}] ->
        %{lease: lease, key: key, loader: loader, epoch: epoch, since: since}

      [] ->
        nil
    end
  end

  @doc "Returns the load that callers of a key wait for."
  @spec current(atom, term, epoch :: integer) :: load | nil
  def current(name, key, epoch) do
    with [{_id, lease}] <- :ets.lookup(@loads, {:key, name, key}),
         %{epoch: ^epoch} = load <- get(name, lease) do
      load
    else
      _none_or_ended -> nil
    end
  end

  @doc "Returns whether the load may store what it gives."
  @spec current?(atom, load, epoch :: integer) :: boolean
  def current?(name, %{lease: lease, key: key}, epoch),
    do: match?(%{lease: ^lease}, current(name, key, epoch))

  @spec start(atom, lease, term, pid, epoch :: integer) :: :ok
  def start(name, lease, key, loader, epoch) do
    :ets.insert(@loads, {{:lease, name, lease}, key, loader, epoch, System.monotonic_time()})
    :ets.insert(@loads, {{:key, name, key}, lease})
    :ok
  end

  @doc "Gives a lease whose loader has died to another."
  @spec hand_over(atom, lease, pid) :: :ok
  def hand_over(name, lease, loader) do
    since = System.monotonic_time()
    :ets.update_element(@loads, {:lease, name, lease}, [{3, loader}, {5, since}])
    :ok
  end

  @doc "Ends the lease of the load under way of a key."
  @spec detach(atom, term) :: :ok
  def detach(name, key) do
    :ets.delete(@loads, {:key, name, key})
    :ok
  end

  @doc "Forgets a load. Its waiters have been answered."
  @spec finish(atom, load) :: :ok
  def finish(name, %{lease: lease, key: key}) do
    with [{_id, ^lease}] <- :ets.lookup(@loads, {:key, name, key}), do: detach(name, key)
    :ets.delete(@loads, {:lease, name, lease})
    :ok
  end

  @doc "Returns all loads of a cache: its leases and their loaders."
  @spec all(atom) :: [{lease, pid}]
  def all(name) do
    pattern = {{:lease, name, :"$1"}, :_, :"$2", :_, :_}
    :ets.select(@loads, [{pattern, [], [{{:"$1", :"$2"}}]}])
  end

  ## Waiters

  @spec wait(atom, lease, reference, pid) :: :ok
  def wait(name, lease, ref, waiter) do
    n = System.unique_integer([:monotonic])
    :ets.insert(@waiters, {{name, lease, n}, ref, waiter})
    :ets.insert(@loads, {{:wait, name, ref}, lease, n})
    :ok
  end

  @spec waits?(atom, reference) :: boolean
  def waits?(name, ref), do: :ets.member(@loads, {:wait, name, ref})

  @doc "Takes out a waiter; false where it has been answered."
  @spec cancel(atom, reference) :: boolean
  def cancel(name, ref) do
    case :ets.take(@loads, {:wait, name, ref}) do
      [{_id, lease, n}] ->
        :ets.delete(@waiters, {name, lease, n})
        true

      [] ->
        false
    end
  end

  @doc "The waiter that came first."
  @spec next(atom, lease) :: {reference, pid} | nil
  def next(name, lease) do
    # Every number comes before an atom.
    with {^name, ^lease, n} <- :ets.next(@waiters, {name, lease, -1.0e300}),
         [{_id, ref, waiter}] <- :ets.lookup(@waiters, {name, lease, n}) do
      {ref, waiter}
    else
      _none -> nil
    end
  end

  @doc "Returns all waiters of a cache."
  @spec waiters(atom) :: [{reference, pid}]
  def waiters(name),
    do: :ets.select(@waiters, [{{{name, :_, :_}, :"$1", :"$2"}, [], [{{:"$1", :"$2"}}]}])

  @doc "Answers all waiters of a load in the order of arrival, and returns them."
  @spec answer_all(atom, lease, term) :: [{reference, pid}]
  def answer_all(name, lease, answer) do
    case next(name, lease) do
      {ref, waiter} ->
        answer(name, ref, waiter, answer)
        [{ref, waiter} | answer_all(name, lease, answer)]

      nil ->
        []
    end
  end

  # The message comes first. If the server is killed in between, its successor sends another one,
  # and the waiter has taken the first.
  @spec answer(atom, reference, pid, term) :: :ok
  def answer(name, ref, waiter, answer) do
    send(waiter, {:foundation_cache, ref, answer})
    cancel(name, ref)
    :ok
  end

  @doc "Forgets all loads; waiters are told that there is no cache."
  @spec forget(atom) :: :ok
  def forget(name) do
    for {lease, _loader} <- all(name), do: answer_all(name, lease, nil)
    :ets.match_delete(@loads, {{:lease, name, :_}, :_, :_, :_, :_})
    :ets.match_delete(@loads, {{:key, name, :_}, :_})
    :ok
  end
end
