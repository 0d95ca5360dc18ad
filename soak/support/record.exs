defmodule Soak.Broken do
  @moduledoc false
  # Raised for an invariant that does not hold.
  defexception [:invariant, :detail]

  @impl true
  def message(%{invariant: invariant, detail: detail}), do: "#{invariant}: #{inspect(detail)}"
end

defmodule Soak.Record do
  @moduledoc false
  # Counts operations by area, faults by kind, and checks and failures by invariant.

  alias Soak.Broken

  @table __MODULE__
  @details 5
  # The invariants of the soak itself. Every area adds its own.
  @invariants [
    crew: "raises that should not be",
    progress: "areas that came to a stop",
    memory: "memory that has grown"
  ]

  def open(invariants) do
    @table = :ets.new(@table, [:named_table, :public, write_concurrency: true])
    :ets.insert(@table, {:invariants, invariants ++ @invariants})
    :ok
  end

  @doc "Adds to a figure, which `get/1` reads."
  def add(key, count), do: :ets.update_counter(@table, key, count, {key, 0})

  def operations(area, count), do: add({:operations, area}, count)
  def fault(kind), do: add({:fault, kind}, 1)

  @doc "Counts a check. Raises `Soak.Broken` unless the condition holds."
  def check!(invariant, holds?, detail) do
    if holds? do
      add({:checks, invariant}, 1)
    else
      raise Broken, invariant: invariant, detail: detail.()
    end

    :ok
  end

  @doc "Runs `fun` and records what it raises."
  def guard(fun) do
    {:ok, fun.()}
  rescue
    broken in Broken -> fail(broken.invariant, broken.detail)
    error -> fail(:crew, Exception.format(:error, error, __STACKTRACE__))
  catch
    kind, reason -> fail(:crew, Exception.format(kind, reason, __STACKTRACE__))
  end

  def fail(invariant, detail) do
    count = add({:failures, invariant}, 1)
    if count <= @details, do: :ets.insert(@table, {{:detail, invariant, count}, detail})
    :failed
  end

  @doc "An area without operations has shown nothing, so it fails."
  def progress(area) do
    guard(fn ->
      check!(:progress, get({:operations, area}) > 0, fn -> "#{area} did nothing" end)
    end)
  end

  def failed?, do: :ets.match(@table, {{:failures, :_}, :"$1"}) != []

  def invariants, do: :ets.lookup_element(@table, :invariants, 2)

  def get(key) do
    case :ets.lookup(@table, key) do
      [{_key, count}] -> count
      [] -> 0
    end
  end

  def faults, do: for([kind, n] <- :ets.match(@table, {{:fault, :"$1"}, :"$2"}), do: {kind, n})
  def details(i), do: @table |> :ets.match({{:detail, i, :_}, :"$1"}) |> List.flatten()
end
