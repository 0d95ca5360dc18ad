defmodule Foundation.OpenTelemetry.Open do
  @moduledoc false
  # The open spans that OpenTelemetry knows: {span_id, pid, span_ctx}. Any process may end a span,
  # and the parent of a span may be in another process.

  @table __MODULE__

  # Bounds the spans whose end has no event, because it was dropped.
  @most 100_000

  @doc "Makes the table, which belongs to the calling process."
  @spec open_table() :: :ok
  def open_table do
    if :ets.whereis(@table) == :undefined do
      :ets.new(@table, [:named_table, :public, write_concurrency: true, read_concurrency: true])
    end

    :ok
  end

  @doc "Keeps a span of the calling process. `false` where there are too many."
  @spec put(String.t(), term) :: boolean
  def put(id, span) do
    :ets.info(@table, :size) < @most and :ets.insert(@table, {id, self(), span})
  end

  @doc "Returns an open span, or `nil`."
  @spec get(String.t()) :: term | nil
  def get(id) do
    case :ets.lookup(@table, id) do
      [{_id, _pid, span}] -> span
      [] -> nil
    end
  end

  @doc "Removes an open span, and returns its process too."
  @spec take(String.t()) :: {pid, term} | nil
  def take(id) do
    case :ets.take(@table, id) do
      [{_id, pid, span}] -> {pid, span}
      [] -> nil
    end
  end

  @doc "Removes the spans of dead processes and returns them. O(open spans)."
  @spec take_dead() :: [term]
  def take_dead do
    for {id, pid, _span} <- :ets.tab2list(@table),
        not Process.alive?(pid),
        {_pid, span} <- List.wrap(take(id)),
        do: span
  end

  @spec clear() :: :ok
  def clear do
    :ets.delete_all_objects(@table)
    :ok
  end
end
