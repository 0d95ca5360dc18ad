defmodule Bench.Growth do
  @moduledoc false
  # Growth of the rows: each at several sizes, and at one size in several processes.

  @processes [1, 2, 4, 8]

  # About the memory of a million entries in all tables of a row, with room to spare.
  @bytes_per_entry 600

  @doc """
  Measures and streams `{row, {dimension, size, processes}, result}`.

  With `sizes`, measures only at those sizes, and in one process.
  """
  def measure(rows, context, sizes \\ nil) do
    context = %{context | growth?: true}

    Stream.flat_map(rows, fn row ->
      if sizes,
        do: by_size(row, Enum.filter(row.growth, &(&1 in sizes)), context),
        else:
          Stream.concat(by_size(row, sizes(row, context), context), by_processes(row, context))
    end)
  end

  defp by_size(row, sizes, context) do
    for_each(row, Stream.filter(sizes, &room_for?(row, &1)), fn size ->
      {{:size, size, nil}, size, %{context | rounds: rounds(row, size, context)}}
    end)
  end

  defp by_processes(%{processes: nil}, _context), do: []

  defp by_processes(row, context) do
    size = if context.quick?, do: min(row.processes, 1_000), else: row.processes

    for_each(row, @processes, fn count ->
      # Each process must work much longer than it takes to start.
      per_round = context.per_round * 4
      rounds = rounds(row, size, context)
      context = %{context | processes: count, per_round: per_round, rounds: rounds}
      {{:processes, size, count}, size, context}
    end)
  end

  defp for_each(row, values, fun) do
    Stream.flat_map(values, fn value ->
      {point, size, context} = fun.(value)
      for result <- List.wrap(row.run.(size, context)), do: {row, point, result}
    end)
  end

  defp sizes(%{growth: [first | _]}, %{quick?: true}), do: [first, 10 * first]
  defp sizes(row, _context), do: row.growth

  defp room_for?(row, size) do
    room? = size * @bytes_per_entry < available_memory()
    unless room?, do: IO.puts("#{row.name} #{size}: left out, not enough memory")
    room?
  end

  # Where each round makes all entries anew, fewer rounds are enough.
  defp rounds(%{fills?: true}, size, context) do
    context.rounds |> min(div(300_000, size)) |> max(min(3, context.rounds))
  end

  defp rounds(_row, _size, context), do: context.rounds

  defp available_memory do
    with {:ok, text} <- File.read("/proc/meminfo"),
         [_line, kilobytes] <- Regex.run(~r/^MemAvailable:\s*(\d+) kB$/m, text) do
      String.to_integer(kilobytes) * 1024
    else
      _not_linux_or_no_such_line -> :infinity
    end
  end

  @doc "The name of a point in a table."
  def label({:size, size, nil}), do: size
  def label({:processes, _size, count}), do: "#{count} p"

  @doc "A result as the file has it."
  def json(row, {dimension, size, processes} = _point, result) do
    row = %{row | target: nil}

    Bench.Report.json(row, size, result) ++
      [
        dimension: dimension,
        processes: processes,
        what: row.what,
        against: Bench.Report.theirs(row, result.variant)
      ]
  end
end
