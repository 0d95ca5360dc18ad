defmodule Foundation.Telemetry.Span.Backends.ETS.Abandoned do
  @moduledoc false
  # The spans of dead processes that wait for the span process, in the table of open spans.
  #
  # {{:abandoned, n}, pid, at, upto} is a death: its number, the process, the time, and how many
  # spans the deaths up to it had. The monitor inserts the row and changes the mark of the process
  # from `:watched` to `:dead` in one step. The span process removes the row after all others of
  # the process. So a successor of either finds in the table how far they got.
  # {:dropped, :count} has the spans that were dropped since the span process last asked.

  alias Foundation.Telemetry.Span
  alias Foundation.Telemetry.Span.Frame

  @table :span_contexts
  @dropped {:dropped, :count}

  # The bound of the native engine.
  @waiting_max 100_000

  # Any atom is behind every number in the order of terms.
  @last :last

  @doc "Returns the processes that have had a span and are not known to be dead."
  @spec watched() :: [pid]
  def watched, do: :ets.select(@table, [{{{:"$1", 0}, :watched}, [], [:"$1"]}])

  @doc """
  Records the death of a process and notifies the span process. Drops the spans of the process if
  too many wait. O(its spans).
  """
  @spec died(pid) :: :ok
  def died(pid) do
    if :ets.lookup(@table, {pid, 0}) == [{{pid, 0}, :watched}], do: died(pid, count(pid, @last))
    :ok
  end

  defp died(pid, 0), do: remove(pid)

  defp died(pid, spans) do
    {n, upto} = newest()

    if upto + spans - reported(upto) <= @waiting_max do
      at = System.monotonic_time(:nanosecond)
      :ets.insert(@table, [{{:abandoned, n + 1}, pid, at, upto + spans}, {{pid, 0}, :dead}])
    else
      # If the monitor is killed in between, its successor counts these spans once more.
      :ets.update_counter(@table, @dropped, spans, {@dropped, 0})
      remove(pid)
    end

    # The span process looks again once it has forgotten the spans of an earlier death.
    if oldest() in [nil, n + 1], do: notify()
  end

  defp newest do
    with {:abandoned, n} = key <- :ets.prev(@table, {:abandoned, @last}),
         [{_key, _pid, _at, upto}] <- :ets.lookup(@table, key) do
      {n, upto}
    else
      # No death waits, or the span process has just forgotten the last one.
      _none -> {0, 0}
    end
  end

  # How many of the first `upto` spans do not wait. Those of the oldest death are being reported.
  defp reported(upto) do
    with n when n != nil <- oldest(),
         [{_key, _pid, _at, first}] <- :ets.lookup(@table, {:abandoned, n}) do
      first
    else
      _none -> upto
    end
  end

  defp oldest do
    case :ets.next(@table, {:abandoned, 0}) do
      {:abandoned, n} -> n
      _none -> nil
    end
  end

  defp notify do
    with pid when is_pid(pid) <- Process.whereis(Span), do: send(pid, :abandoned)
  end

  @doc """
  Returns the spans of the oldest death, innermost first, each with the token that forgets it.
  O(its spans).
  """
  @spec next() :: [{Frame.ended(), token :: term}]
  def next do
    with n when n != nil <- oldest(),
         [{key, pid, at, _upto}] <- :ets.lookup(@table, {:abandoned, n}) do
      case spans(pid, at, @last) do
        # The span process was killed while it forgot the last one.
        [] ->
          forget({key, pid})
          next()

        # The outermost span is forgotten together with contexts and mark.
        spans ->
          List.update_at(spans, -1, fn {span, _key} -> {span, {key, pid}} end)
      end
    else
      _none -> []
    end
  end

  @doc "Forgets a span; with the token of a process's last one, also the rest of the process."
  @spec forget(token :: term) :: :ok
  def forget({{:abandoned, _n} = key, pid}) do
    remove(pid)
    :ets.delete(@table, key)
    :ok
  end

  def forget(key) do
    :ets.delete(@table, key)
    :ok
  end

  @doc "Returns how many spans were dropped since the last call."
  @spec take_dropped() :: non_neg_integer
  def take_dropped do
    case :ets.take(@table, @dropped) do
      [{_key, count}] -> count
      [] -> 0
    end
  end

  defp spans(pid, at, position) do
    case before(pid, position) do
      {n, span} when is_map(span) -> [{Frame.ended(span, at), {pid, n}} | spans(pid, at, n)]
      {n, _context} -> spans(pid, at, n)
      nil -> []
    end
  end

  defp count(pid, position) do
    case before(pid, position) do
      {n, span} when is_map(span) -> 1 + count(pid, n)
      {n, _context} -> count(pid, n)
      nil -> 0
    end
  end

  defp before(pid, position) do
    case :ets.prev(@table, {pid, position}) do
      {^pid, n} = key when n > 0 -> {n, frame(key)}
      _mark_or_another -> nil
    end
  end

  # Another process that ends a span by its handle may have taken it just now.
  defp frame(key) do
    case :ets.lookup(@table, key) do
      [{_key, frame}] -> frame
      [] -> :gone
    end
  end

  # The mark goes last: a successor looks for the rest while it is there.
  defp remove(pid) do
    case :ets.prev(@table, {pid, @last}) do
      {^pid, _n} = key ->
        :ets.delete(@table, key)
        remove(pid)

      _another ->
        :ok
    end
  end
end
