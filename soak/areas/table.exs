defmodule Soak.Table do
  @moduledoc false
  # A named `Foundation.ConcurrentRegistry`, which loses its owner again and again and must lose no
  # entry. Updates add up, and exactly one of the racing processes puts a key. A member reads
  # binaries and stores them again. The soak's check of memory would show copies that pile up.

  @behaviour Soak.Area

  alias Foundation.ConcurrentRegistry
  alias Soak.{Faults, Record}

  @table Soak.ConcurrentTable
  @restarts 1_000_000
  @counted 4
  @members 3

  # Below 65 bytes a binary is on the heap, up to 8 kB its bytes are copied, above it is shared.
  @lengths [64, 65, 8_192, 8_193, 50_000]

  @impl true
  def name, do: "concurrent table"

  @impl true
  def invariants do
    [
      added: "updates of the concurrent table lost",
      put: "keys put by none or by two",
      restored: "values not as they were stored again"
    ]
  end

  @impl true
  def open(options) do
    {:ok, _pid} =
      Supervisor.start_link([{ConcurrentRegistry, name: @table, engine: options.engine}],
        strategy: :one_for_one,
        max_restarts: @restarts,
        max_seconds: 1
      )
  end

  @impl true
  def crew do
    [
      %{count: @members, init: &{&1, 0}, step: &work/1},
      %{count: 1, init: &begin/1, step: &store_again/1}
    ]
  end

  @impl true
  def faults(_engine),
    do: [{"concurrent table's owner killed", 2, fn -> Faults.kill(@table) end}]

  defp work({index, n}) do
    key = {:counted, :rand.uniform(@counted)}
    value = ConcurrentRegistry.update(@table, key, 1, &(&1 + 1))
    Record.add(key, 1)
    Record.check!(:added, value >= 1, fn -> {key, value} end)

    # All members reach each number, and race to put its key.
    if ConcurrentRegistry.put_new(@table, {:raced, n}, index), do: Record.add(:put, 1)
    winner = ConcurrentRegistry.get(@table, {:raced, n})
    Record.check!(:put, winner in 1..@members, fn -> {n, winner} end)
    own = {:own, index, n}
    :ok = ConcurrentRegistry.put(@table, own, n)
    found = ConcurrentRegistry.get(@table, own)
    Record.check!(:added, found == n, fn -> {own, found} end)
    :ok = ConcurrentRegistry.delete(@table, own)
    if rem(n, 100) == 0, do: Process.sleep(1)
    {6, {index, n + 1}}
  end

  defp begin(_index) do
    for length <- @lengths,
        do: ConcurrentRegistry.put(@table, {:restored, length}, value(length))

    0
  end

  # Has a binary twice, and a part of it.
  defp value(length) do
    binary = :binary.copy(<<length::32>>, div(length + 3, 4))
    %{whole: [binary | binary], part: binary_part(binary, 1, length - 3)}
  end

  defp store_again(n) do
    length = Enum.random(@lengths)
    {key, moved} = {{:restored, length}, {:moved, length}}

    case rem(n, 3) do
      0 ->
        ConcurrentRegistry.update(@table, key, nil, & &1)

      1 ->
        :ok = ConcurrentRegistry.put(@table, key, ConcurrentRegistry.get(@table, key))

      2 ->
        :ok = ConcurrentRegistry.put(@table, moved, ConcurrentRegistry.get(@table, key))
        :ok = ConcurrentRegistry.delete(@table, key)
        :ok = ConcurrentRegistry.put(@table, key, ConcurrentRegistry.get(@table, moved))
        :ok = ConcurrentRegistry.delete(@table, moved)
    end

    found = ConcurrentRegistry.get(@table, key)
    Record.check!(:restored, found == value(length), fn -> {length, found} end)
    {2, n + 1}
  end

  @impl true
  def audit do
    for n <- 1..@counted do
      found = ConcurrentRegistry.get(@table, {:counted, n}, 0)
      expected = Record.get({:counted, n})
      Record.check!(:added, found == expected, fn -> {n, found, :of, expected} end)
    end

    raced = for {{:raced, _n} = key, _winner} <- ConcurrentRegistry.stream(@table), do: key
    expected = Record.get(:put) - Record.get(:taken)
    Record.check!(:put, length(raced) == expected, fn -> {length(raced), :of, expected} end)

    # A member that reaches one of these numbers later puts its key again.
    for key <- raced, do: :ok = ConcurrentRegistry.delete(@table, key)
    Record.add(:taken, length(raced))
  end
end
