defmodule Soak.Spans do
  @moduledoc false
  # Nested spans, of processes that live on and of processes that die with open spans. Each span
  # that was started is reported as ended or as abandoned.

  @behaviour Soak.Area

  alias Foundation.Telemetry.Span
  alias Soak.{Epoch, Faults, Record}

  import Foundation.Eventually

  @table __MODULE__
  @deepest 6

  @impl true
  def name, do: "spans"

  @impl true
  def invariants do
    [stack: "spans not as they were nested", ended: "spans neither ended nor abandoned"]
  end

  @impl true
  def open(_options) do
    @table = :ets.new(@table, [:named_table, :public, write_concurrency: true])
    events = for event <- [:start, :stop, :abandoned], do: [:foundation, :span, event]
    :ok = :telemetry.attach_many(__MODULE__, events, &__MODULE__.told/4, nil)
  end

  @doc false
  def told([_, _, :start], _measurements, %{span_id: id}, _config), do: :ets.insert(@table, {id})
  def told(_ended, _measurements, %{span_id: id}, _config), do: :ets.delete(@table, id)

  @impl true
  def crew do
    [
      %{count: 3, init: & &1, step: &nest/1},
      %{count: 1, init: & &1, step: &abandon/1}
    ]
  end

  @impl true
  def faults(:native), do: [{"Span killed", 3, fn -> Faults.kill(Span) end}]

  def faults(:ets),
    do: [{"Span.Monitor killed", 3, fn -> Faults.kill(Span.Monitor) end} | faults(:native)]

  defp nest(index) do
    judged =
      Epoch.judge(:telemetry, fn _epoch ->
        depth = :rand.uniform(@deepest)
        ids = for n <- 1..depth, do: start(n)

        for {id, n} <- ids |> Enum.with_index(1) |> Enum.reverse() do
          current = Span.current_span()

          right? =
            current != nil and current.span_id == id and current.attributes == %{n: n, more: n}

          Record.check!(:stack, right?, fn -> {id, n, current} end)
          ended = if rem(n, 2) == 0, do: Span.end_span(), else: Span.end_span(id)
          Record.check!(:stack, ended == :ok, fn -> {id, n, ended} end)
        end

        Record.check!(:stack, Span.current_span() == nil, fn -> Span.current_span() end)
        2 * depth
      end)

    case judged do
      {:ok, operations} ->
        {operations, index}

      # Some spans may be open, from either epoch.
      :unjudged ->
        end_all()
        {0, index}
    end
  end

  defp start(n) do
    id = Span.start_span({:soak, n}, %{n: n})
    :ok = Span.add_attributes(%{more: n})
    id
  end

  defp end_all, do: if(Span.end_span() == :ok, do: end_all())

  defp abandon(index) do
    me = self()
    count = if :rand.uniform(20) == 1, do: 200, else: 2

    dying =
      for _n <- 1..count do
        spawn(fn ->
          for n <- 1..@deepest, do: Span.start_span({:dying, n})
          send(me, {:started, self()})
          Process.sleep(:infinity)
        end)
      end

    for pid <- dying, do: receive(do: ({:started, ^pid} -> Process.exit(pid, :kill)))
    Process.sleep(5)
    {count * @deepest, index}
  end

  @impl true
  def audit do
    Faults.await(Span)
    # Spans that end with an epoch are not reported.
    epoch = Epoch.now(:telemetry)

    with [{:epoch, ^epoch}] <- :ets.lookup(@table, :epoch) do
      try do
        eventually(fn -> :ets.info(@table, :size) == 1 end)
      rescue
        _not_in_time in ExUnit.AssertionError -> :ok
      end

      left = :ets.info(@table, :size) - 1
      Record.check!(:ended, left == 0, fn -> {left, :left} end)
    end

    :ets.delete_all_objects(@table)
    :ets.insert(@table, {:epoch, epoch})
  end
end
