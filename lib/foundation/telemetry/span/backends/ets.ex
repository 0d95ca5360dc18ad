defmodule Foundation.Telemetry.Span.Backends.ETS do
  @moduledoc false
  # :span_contexts, an ordered_set of {{pid, n}, frame}: a process's frames by n, innermost last.
  # Only its own process writes a row while that lives, and the span process takes it after that;
  # so no row has two writers.
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
      {n, %{} = span} -> take(n, span)
      _none -> :error
    end
  end

  def finish(id), do: finish(id, @last)

  defp finish(id, position) do
    case before(position) do
      {_n, nil} -> :error
      {n, %{span_id: ^id} = span} -> take(n, span)
      {n, _other} -> finish(id, n)
    end
  end

  defp take(n, span) do
    delete(n)
    Frame.ended(span)
  end

  @impl true
  def current do
    {_n, frame} = innermost()
    Frame.view(frame)
  end

  @impl true
  def update(change) do
    case innermost() do
      {n, %{} = span} -> put(n, Frame.change(span, change))
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

  defp innermost, do: before(@last)

  # The caller's frame before a position, and its own position: 0 and nil when there is none.
  defp before(position) do
    own = self()

    with {^own, n} when n > 0 <- :ets.prev(@table, {own, position}),
         [{_key, frame}] <- :ets.lookup(@table, {own, n}) do
      {n, frame}
    else
      _none -> {0, nil}
    end
  rescue
    # The table is gone: the application is not started, or its owner was killed just now.
    ArgumentError -> {0, nil}
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
