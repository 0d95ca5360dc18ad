defmodule Foundation.Telemetry.Span.Backends.ETS do
  @moduledoc false
  # :span_contexts, an ordered_set of {{pid, n}, frame}: a process's frames by n, innermost last.
  # Only its own process inserts and changes a row while that lives, and the span process takes it
  # after that. Another process may remove one, to end a span by its handle: a change of a row that
  # is gone does nothing.
  #
  # {{pid, 0}, :watched} stays while its process lives, also when nothing is open: one monitor
  # a process. `ETS.Abandoned` has the rows of dead processes. Without the table spans still have
  # ids and events, and are not kept.

  @behaviour Foundation.Telemetry.Span.Backend

  alias Foundation.Telemetry.Span.{Frame, Monitor}
  alias Foundation.Telemetry.Span.Backends.ETS.Abandoned

  @table :span_contexts

  # Any atom is behind every number in the order of terms.
  @last :last

  @impl true
  def exists?, do: :ets.whereis(@table) != :undefined

  @impl true
  def open do
    :ets.new(@table, [:ordered_set, :named_table, :public, write_concurrency: true])
    :created
  end

  @impl true
  def close do
    :ets.delete(@table)
    :ok
  end

  @impl true
  def start(name, attributes) do
    {n, parent} = innermost()
    span = Frame.span(parent, name, attributes)
    if Frame.kept?(span), do: put(n + 1, span)
    Frame.started(span)
  end

  @impl true
  def finish(nil) do
    case innermost() do
      {n, %{} = span} -> take(self(), n, span)
      _none -> :error
    end
  end

  def finish(id), do: finish(self(), id, @last)

  # One that is dead is the span process's.
  @impl true
  def finish_of(pid, id), do: if(Process.alive?(pid), do: finish(pid, id, @last), else: :error)

  defp finish(pid, id, position) do
    case before(pid, position) do
      {_n, nil} -> :error
      {n, %{span_id: ^id} = span} -> take(pid, n, span)
      {n, _other} -> finish(pid, id, n)
    end
  end

  # Of two that end a span one takes its row.
  defp take(pid, n, span) do
    case :ets.take(@table, {pid, n}) do
      [_row] -> Frame.ended(span)
      [] -> :error
    end
  rescue
    # The table may go between a look at a frame and this.
    ArgumentError -> Frame.ended(span)
  end

  @impl true
  def current do
    {_n, frame} = innermost()
    Frame.view(frame)
  end

  @impl true
  def current_of(pid) do
    case before(pid, @last) do
      {_n, %{} = span} -> Frame.view({:remote, span})
      {_n, frame} -> Frame.view(frame)
    end
  end

  @impl true
  def update(change) do
    case innermost() do
      {n, %{} = span} -> change(n, Frame.change(span, change))
      _none -> :error
    end
  end

  @impl true
  def enter(context) do
    {n, parent} = innermost()
    put(n + 1, Frame.remote(parent, context))
    n + 1
  end

  @impl true
  def leave(mark) do
    case innermost() do
      {n, frame} when n >= mark and frame != nil ->
        delete(n)
        if is_map(frame), do: [Frame.ended(frame) | leave(mark)], else: leave(mark)

      _outer ->
        []
    end
  end

  @impl true
  def watch do
    # A predecessor may have died with a notification unread.
    send(self(), :abandoned)
    :ok
  end

  @impl true
  def abandoned(:abandoned) do
    spans = Abandoned.next()
    {spans, if(spans == [], do: :done, else: :more), Abandoned.take_dropped()}
  end

  def abandoned(_message), do: :ignored

  @impl true
  defdelegate forget(token), to: Abandoned

  defp innermost, do: before(self(), @last)

  # The frame of a process before a position, and its position: 0 and nil when there is none.
  defp before(pid, position) do
    with {^pid, n} when n > 0 <- :ets.prev(@table, {pid, position}) do
      case :ets.lookup(@table, {pid, n}) do
        [{_key, frame}] -> {n, frame}
        # Another process has just taken it.
        [] -> before(pid, n)
      end
    else
      _none -> {0, nil}
    end
  rescue
    # The table is gone: the application is not started, or its owner was killed just now.
    ArgumentError -> {0, nil}
  end

  defp change(n, frame) do
    if :ets.update_element(@table, {self(), n}, {2, frame}), do: :ok, else: :error
  rescue
    ArgumentError -> :ok
  end

  defp put(n, frame) do
    # The mark first: a process that dies in between leaves nothing that is not watched.
    if n == 1 and :ets.insert_new(@table, {{self(), 0}, :watched}), do: Monitor.watch()
    :ets.insert(@table, {{self(), n}, frame})
    :ok
  rescue
    ArgumentError -> :ok
  end

  # The table may go between a look at a frame and this.
  defp delete(n) do
    :ets.delete(@table, {self(), n})
  rescue
    ArgumentError -> true
  end
end
