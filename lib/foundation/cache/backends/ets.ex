defmodule Foundation.Cache.Backends.ETS do
  @moduledoc false
  # The ETS engine: reads of values run in the caller, all else in the cache's owner. A call waits
  # while the owner is restarted.

  @behaviour Foundation.Cache.Backend

  alias Foundation.Cache.Backends.ETS.{Footprint, Loads, Server, Store}
  alias Foundation.Cache.{Cells, Instance}
  alias Foundation.RetryingCall

  @spec open_tables() :: :ok
  def open_tables do
    :ok = Store.open_tables()
    :ok = Loads.open_tables()
  end

  @impl true
  def get(name, key) do
    with cells when cells != nil <- Instance.ets_cells(name) do
      case Store.find(name, key, cells, nil) do
        {freshness, {:ok, value}} -> count_hit({:ok, value}, freshness, cells)
        {_freshness, {:error, _reason}} -> count_miss(:error, cells)
        :none -> count_miss(:error, cells)
        :gone -> gone(name, key, cells)
      end
    end
  end

  # Not worth a wait for an owner that is being restarted.
  defp gone(name, key, cells) do
    count_miss(:error, cells)
    GenServer.call(name, {:drop, key}, :infinity)
    :error
  catch
    :exit, {_reason, {GenServer, :call, _arguments}} -> :error
  end

  @impl true
  def begin(name, key, early), do: begin(name, key, early, _counted? = false)

  @impl true
  def begin_again(name, key, early), do: begin(name, key, early, _counted? = true)

  defp begin(name, key, early, counted?) do
    with {cells, config} <- Instance.ets(name) do
      # A read that was counted before goes into cells that nobody reads.
      counts = if counted?, do: Cells.new(), else: cells

      case Store.find(name, key, cells, early || config.early) do
        {:fresh, kept} -> count_hit(kept, :fresh, counts)
        {:early, _kept} -> ask(name, key, true, counts)
        _stale_or_none -> ask(name, key, false, counts)
      end
    end
  end

  defp ask(name, key, early?, cells) do
    case call(name, {:begin, make_ref(), self(), key, early?}) do
      {kind, _value} = kept when kind in [:ok, :error] -> count_hit(kept, :fresh, cells)
      {:stale, kept} -> count_hit(kept, :stale, cells)
      nil -> nil
      load_or_wait -> count_miss(load_or_wait, cells)
    end
  end

  # In this order, and read in the other one: stale hits are never more than hits.
  defp count_hit(answer, freshness, cells) do
    Cells.add(cells, :hits, 1)
    if freshness == :stale, do: Cells.add(cells, :stale_hits, 1)
    answer
  end

  defp count_miss(answer, cells) do
    Cells.add(cells, :misses, 1)
    answer
  end

  @impl true
  def cancel(name, ref), do: call(name, {:cancel, ref, self()})

  @impl true
  def finish(name, key, lease, outcome) do
    {outcome, bytes} = packed(key, outcome)
    call(name, {:finish, lease, outcome, bytes})
  end

  # In the caller, because it takes time that the owner has for all.
  defp packed(_key, {:failed, _error} = outcome), do: {outcome, 0}

  defp packed(key, outcome) do
    {kept, bytes} = Footprint.pack(key, elem(outcome, 1))
    {put_elem(outcome, 1, kept), bytes}
  end

  @impl true
  def put(name, key, value, ttl, stale) do
    {value, bytes} = Footprint.pack(key, value)
    call(name, {:put, key, value, bytes, ttl, stale})
  end

  @impl true
  def delete(name, key), do: call(name, {:delete, key})

  @impl true
  def clear(name), do: call(name, :clear)

  # Without the owner, which may be away.
  @impl true
  def expire(name) do
    with cells when cells != nil <- Instance.ets_cells(name) do
      Cells.next(cells, :epoch)
      :ok
    end
  end

  @impl true
  def size(name) do
    with cells when cells != nil <- Instance.ets_cells(name), do: Cells.get(cells, :entries)
  end

  @impl true
  def stats(name) do
    with cells when cells != nil <- Instance.ets_cells(name) do
      # A part is read before the whole.
      [stale_hits, load_errors, hits, misses, loads, evicted, expired, rejected, entries, bytes] =
        for cell <-
              ~w(stale_hits load_errors hits misses loads evicted expired rejected entries bytes)a,
            do: Cells.get(cells, cell)

      {hits, misses, loads, load_errors, stale_hits, evicted, expired, rejected, entries, bytes}
    end
  end

  @impl true
  def walk(name, cursor) do
    with cells when cells != nil <- Instance.ets_cells(name) do
      # A key that gets its place later is not visited, so none is visited twice.
      cursor = if cursor == 0, do: {0, Cells.get(cells, :place)}, else: cursor
      Store.walk(name, cells, cursor)
    end
  end

  @impl true
  def open(config, _adopt_timeout), do: {:ok, Server.open(config, Instance.cells(config.name))}

  @impl true
  def handle_request(request, server), do: Server.handle_request(request, server)

  @impl true
  def handle_message(message, server), do: Server.handle_message(message, server)

  @impl true
  def stop(name, cells), do: Server.forget(name, cells)

  defp call(name, request), do: RetryingCall.call(name, request, &Instance.ets?/1)
end
