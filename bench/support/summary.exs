defmodule Bench.Summary do
  @moduledoc false
  # The first tables of BENCHMARKS.md and README.md, made from the results in BENCHMARKS.md.
  #
  # A factor says how many times less ours costs; below 1, ours costs more. It is the ratio of the
  # full table, or its inverse if the target is an upper bound.

  # The row in words, and its name, size and variant.
  @summary [
    {"look up a key, 1,000 entries", "lookup", "1,000", "integer"},
    {"look up a key, 1,000,000 entries", "lookup", "1,000,000", "integer"},
    {"look up a key", "lookup_ets", "100,000", "integer"},
    {"look up 1,000 keys in one call, each", "lookup_many", "100,000", "integer"},
    {"find a process by its name", "whereis", "100,000", "integer"},
    {"register a key in a new process", "register_fresh", "100,000", ""},
    {"register many keys in one process, each", "register_bulk", "100,000", ""},
    {"clean up after one of 20,000 deaths", "mass_exit", "20,000", ""},
    {"unregister one of 100,000 duplicate keys", "unregister_many_keys", "100,000", ""},
    {"look up while others write", "reads_while_writing", "100,000", ""},
    {"every function, geometric mean", "surface", "all", "geometric mean"},
    {"suppress a repeated event", "dedup_hit", "10,000", ""},
    {"append an event to a batch", "batch_append", "100,000", "ets"},
    {"start and end a span", "span", "1", ""},
    {"bytes of an entry", "memory", "1,000,000", "integer"}
  ]

  @readme [
    {"look up a key in a table of 1,000", "lookup", "1,000", "integer"},
    {"look up a key in a table of 1,000,000", "lookup", "1,000,000", "integer"},
    {"register a key in a new process, 100,000 entries", "register_fresh", "100,000", ""},
    {"clean up after one of 20,000 deaths", "mass_exit", "20,000", ""},
    {"unregister one of 100,000 duplicate keys", "unregister_many_keys", "100,000", ""}
  ]

  # Rows that compare ours with itself.
  @own ["memory_back", "scheduler"]

  @doc "Returns BENCHMARKS.md with a new summary of its results."
  def benchmarks(page) do
    {runs, results} = results(page)
    replace(page, "summary", summary(runs, results, peers(page)))
  end

  @doc "Returns README.md with new figures from the results in BENCHMARKS.md."
  def readme(readme, page) do
    {_runs, results} = results(page)
    replace(readme, "figures", [machine(page), "\n", figures(results)])
  end

  @doc "Returns the page with `content` between the marks of that name."
  def replace(page, name, content) do
    {from, to} = {"<!-- #{name} -->\n", "<!-- end of #{name} -->\n"}
    [before, rest] = String.split(page, from)
    [_old, behind] = String.split(rest, to)
    IO.iodata_to_binary([before, from, content, to, behind])
  end

  # The line on the first run names the engine, OTP and Elixir, and then the machine.
  defp machine(page) do
    [_all, otp, cpu] = Regex.run(~r/^- [^;]*; (OTP \d+)[^;]*; ([^;]*), [^,;]*;/m, page)
    "Native engine, #{otp}, #{cpu}:\n"
  end

  defp figures(results) do
    [
      line(["", "Foundation", "`Registry`"]),
      line(["---", "---", "---"]),
      for {what, row, size, variant} <- @readme,
          %{runs: [run | _]} <- List.wrap(find(results, row, size, variant)) do
        line([what, run.ours, run.theirs])
      end
    ]
  end

  defp summary(runs, results, peers) do
    columns = ["", "against", "ours", "theirs"] ++ Enum.map(runs, &"#{&1}: factor")

    [
      line(columns),
      line(Enum.map(columns, fn _column -> "---" end)),
      for {what, row, size, variant} <- @summary,
          result <- List.wrap(find(results, row, size, variant)) do
        summary_line(what, result, peers)
      end,
      for {row, losses} <- losses(results) do
        worst = Enum.min_by(losses, &worst/1)
        others = length(losses) - 1
        more = if others > 0, do: ", and #{others} more of its results"
        name = Enum.join(["`#{row}`", worst.size | List.wrap(named(worst.variant))], ", ")
        summary_line("slower: #{name}#{more}", worst, peers)
      end
    ]
  end

  defp named(""), do: nil
  defp named(variant), do: variant

  defp summary_line(what, result, peers) do
    first = hd(result.runs)
    factors = for run <- result.runs, do: factor(run.factor)
    line([what, Map.get(peers, result.row, "–"), first.ours, first.theirs | factors])
  end

  defp factor(nil), do: ""
  defp factor(factor) when factor < 1, do: "**#{number(factor)}**"
  defp factor(factor), do: number(factor)

  defp number(number) when number >= 100, do: "#{round(number)}"
  defp number(number) when number >= 10, do: :erlang.float_to_binary(number / 1, decimals: 1)
  defp number(number), do: :erlang.float_to_binary(number / 1, decimals: 2)

  # The results in which ours costs more in any run, by row, in the order of the rows.
  defp losses(results) do
    results
    |> Enum.filter(&(&1.row not in @own and not own?(&1) and worst(&1) < 1))
    |> Enum.chunk_by(& &1.row)
    |> Enum.map(fn [%{row: row} | _] = losses -> {row, losses} end)
  end

  defp own?(%{row: "unregister_many_keys", size: "1,000,000"}), do: true
  defp own?(%{variant: "geometric mean"}), do: true
  defp own?(_result), do: false

  defp worst(result),
    do: result.runs |> Enum.map(& &1.factor) |> Enum.reject(&is_nil/1) |> Enum.min(fn -> 1 end)

  # A variant that was renamed after the recording is found by its old name.
  defp find(results, row, size, variant) do
    Enum.find(results, &(&1.row == row and &1.size == size and &1.variant == variant)) ||
      Enum.find(results, &(&1.row == row and &1.size == size))
  end

  ## Reading BENCHMARKS.md

  # The names of the runs, and a map for each line of the full table.
  defp results(page) do
    [_before, section] = String.split(page, "\n## Results\n")
    [table | _calls] = for [heading | _] = t <- tables(section), hd(heading) == "row", do: t
    [heading, _dashes | lines] = table
    own = heading |> Enum.drop(4) |> Enum.chunk_every(5)

    runs =
      for [ours | _] <- own, do: ours |> String.split(":") |> hd() |> String.replace("ours", "")

    results =
      for [row, size, variant, target | cells] <- lines do
        upper? = String.starts_with?(target, "≤")
        runs = for cells <- Enum.chunk_every(cells, 5), do: run(cells, upper?)
        %{row: String.trim(row, "`"), size: size, variant: variant, runs: runs}
      end

    {runs, results}
  end

  defp run([ours, theirs, ratio, _spread, _reached], upper?) do
    factor =
      case Float.parse(ratio) do
        {ratio, ""} when upper? -> 1 / ratio
        {ratio, ""} -> ratio
        :error -> nil
      end

    %{ours: ours, theirs: theirs, factor: factor}
  end

  # The third column of the table of the rows, by row.
  defp peers(page) do
    [_before, section] = String.split(page, "\n## The rows\n")
    [[_heading, _dashes | lines] | _tables] = tables(section)

    for [rows, _ours, theirs] <- lines,
        row <- Regex.scan(~r/`(\w+)`/, rows, capture: :all_but_first),
        into: %{},
        do: {hd(row), theirs}
  end

  defp tables(text) do
    text
    |> String.split("\n")
    |> Enum.chunk_by(&String.starts_with?(&1, "|"))
    |> Enum.filter(&match?("|" <> _, hd(&1)))
    |> Enum.map(fn lines -> Enum.map(lines, &cells/1) end)
  end

  defp cells(line) do
    line
    |> String.trim()
    |> String.slice(1..-2//1)
    |> String.split("|")
    |> Enum.map(&String.trim/1)
  end

  defp line(cells), do: ["| ", Enum.map_join(cells, " | ", &"#{&1}"), " |\n"]
end
