defmodule Bench.Report do
  @moduledoc false
  # The printed table, the file of the results, and the tables made of such files.

  @columns [
    {"row", :left},
    {"size", :right},
    {"variant", :left},
    {"ours", :right},
    {"theirs", :right},
    {"ratio", :right},
    {"spread", :left},
    {"target", :right},
    {"", :left},
    {"", :left}
  ]
  @widths [22, 9, 38, 10, 10, 9, 15, 9, 5, 0]

  def heading(machine) do
    [
      for({name, value} <- machine, do: [String.pad_trailing("#{name}", 11), value, "\n"]),
      "\n",
      line(Enum.map(@columns, &elem(&1, 0)))
    ]
  end

  @doc "Describes the machine and the software of the run."
  def machine do
    [
      foundation: "#{Foundation.version()}, #{Foundation.engine()} engine, commit #{commit()}",
      otp:
        "#{System.otp_release()} (erts #{:erlang.system_info(:version)}, " <>
          "#{:erlang.system_info(:emu_flavor)})",
      elixir: System.version(),
      cpu: "#{cpu()}, #{System.schedulers_online()} schedulers",
      memory: "#{div(total_memory(), 1_000_000_000)} GB",
      system: "#{:erlang.system_info(:system_architecture)}, #{system()}",
      load: load(),
      measured: DateTime.utc_now() |> DateTime.truncate(:second) |> DateTime.to_iso8601()
    ]
  end

  def line(row, size, result) do
    line([
      "#{row.name}",
      size(size),
      "#{result.variant}",
      figure(result.ours, result.unit),
      figure(result.theirs, result.unit),
      number(result.ratio),
      spread(result.spread),
      target(target_of(row, size, result.variant)),
      verdict(row, size, result),
      more(result.more)
    ])
  end

  def json(row, size, result) do
    in_ns = fn value -> if result.unit == :ns, do: value end

    [
      row: row.name,
      size: size,
      ours_ns: in_ns.(result.ours),
      theirs_ns: in_ns.(result.theirs),
      ratio: result.ratio,
      spread: result.spread,
      variant: result.variant,
      unit: result.unit,
      ours: result.ours,
      theirs: result.theirs,
      target: target(target_of(row, size, result.variant)),
      reached: reached?(row, size, result)
    ] ++ result.more
  end

  @doc "Finds a row by its name."
  def described(row) do
    targets =
      case row.target do
        %{} = targets ->
          Enum.map_join(Enum.sort(targets), ", ", fn {of, t} -> "#{of(of)} #{target(t)}" end)

        target ->
          target(target)
      end

    sizes = Enum.map_join(row.sizes, ", ", &thousands/1)

    [
      String.pad_trailing("#{row.name}", 22),
      row.what,
      "; sizes ",
      sizes,
      "; target ",
      targets,
      "\n"
    ]
  end

  defp of({size, variant}), do: "#{thousands(size)} #{variant}:"
  defp of(size) when is_integer(size), do: "#{thousands(size)}:"
  defp of(variant), do: "#{variant}:"

  @doc "What a row is compared with."
  def theirs(%{theirs: %{} = theirs}, variant), do: theirs[variant]
  def theirs(%{theirs: theirs}, _variant), do: theirs

  @doc "Returns whether the result reaches its target, or nil without a target at this size."
  def reached?(row, size, result) do
    case target_of(row, size, result.variant) do
      {:at_least, target} -> result.ratio >= target
      {:at_most, target} -> result.ratio <= target
      nil -> nil
    end
  end

  def target_of(%{target: %{} = targets}, size, variant) do
    targets[{size, variant}] || targets[size] || targets[variant]
  end

  def target_of(%{target: target}, _size, _variant), do: target

  defp verdict(row, size, result) do
    case reached?(row, size, result) do
      true -> "ok"
      false -> "SHORT"
      nil -> ""
    end
  end

  defp target({:at_least, number}), do: ">= #{number}"
  defp target({:at_most, number}), do: "<= #{number}"
  defp target(nil), do: nil

  defp spread(nil), do: ""
  defp spread([low, high]), do: "#{number(low)} to #{number(high)}"

  defp figure(nil, _unit), do: ""
  defp figure(value, :share), do: :erlang.float_to_binary(value / 1, decimals: 3)
  defp figure(value, :ns) when value >= 1.0e6, do: number(value / 1.0e6) <> " ms"
  defp figure(value, :ns) when value >= 1.0e4, do: number(value / 1.0e3) <> " µs"
  defp figure(value, :ns), do: number(value) <> " ns"
  defp figure(value, :bytes) when value >= 1.0e5, do: number(value / 1.0e6) <> " MB"
  defp figure(value, :bytes), do: number(value) <> " B"

  defp number(value) when value >= 100, do: "#{round(value)}"
  defp number(value) when value >= 10, do: :erlang.float_to_binary(value / 1, decimals: 1)
  defp number(value), do: :erlang.float_to_binary(value / 1, decimals: 2)

  defp more(function: function, calls: calls, ran_ns: ran, long_schedule_ms: ms) do
    "#{function}; #{calls} calls; ran #{figure(ran, :ns)}; seen by the VM: #{ms} ms"
  end

  defp more([]), do: ""

  defp line(cells) do
    [@columns, @widths, cells]
    |> Enum.zip_with(fn [{_name, side}, width, cell] -> pad("#{cell}", width, side) end)
    |> Enum.join(" ")
    |> String.trim_trailing()
    |> Kernel.<>("\n")
  end

  defp pad(text, width, :left), do: String.pad_trailing(text, width)
  defp pad(text, width, :right), do: String.pad_leading(text, width)

  @doc """
  Formats the results of one or more files of `--json` for BENCHMARKS.md: a line on the machine and
  software of each run, a table of the rows with the runs side by side, and one of the native calls.
  """
  def markdown(runs) do
    {calls, rows} =
      runs
      |> Enum.flat_map(fn run -> Enum.map(run, &point/1) end)
      |> Enum.uniq()
      |> Enum.split_with(fn {row, _size, _variant} -> row == "scheduler" end)

    runs =
      Enum.map(runs, fn run -> {otp(run), machine_line(run), Map.new(run, &{point(&1), &1})} end)

    [
      for({_otp, machine, _results} <- runs, do: ["- ", machine, "\n"]),
      "\n",
      table(
        ["row", "size", "", "target"],
        ["ours", "theirs", "ratio", "spread", ""],
        rows,
        runs,
        &cells/1
      ),
      if(calls == [], do: [], else: "\n"),
      table(["operation", "size"], ["longest", "in", "ran", "seen"], calls, runs, &call_cells/1)
    ]
  end

  defp point(result), do: {result["row"], result["size"], result["variant"]}
  defp otp([%{"machine" => machine} | _]), do: "OTP " <> hd(String.split(machine["otp"]))

  defp machine_line([%{"machine" => m} | _]) do
    "#{m["foundation"]}; OTP #{m["otp"]}, Elixir #{m["elixir"]}; #{m["cpu"]}, #{m["memory"]}; " <>
      "#{m["system"]}; load #{m["load"]}; #{m["measured"]}."
  end

  defp table(_common, _own, [], _runs, _cells), do: []

  defp table(common, own, points, runs, cells) do
    own = for {otp, _machine, _results} <- runs, name <- own, do: heading_cell(otp, name, runs)
    columns = common ++ own

    [
      markdown_line(columns),
      markdown_line(Enum.map(columns, fn _column -> "---" end)),
      for point <- points do
        results = for {_otp, _machine, results} <- runs, do: results[point]
        first = Enum.find(results, & &1)

        markdown_line(
          common_cells(first, common) ++
            Enum.flat_map(results, &cells_or_blank(&1, cells, own, runs))
        )
      end
    ]
  end

  defp heading_cell(_otp, "", _runs), do: ""
  defp heading_cell(_otp, name, [_one]), do: name
  defp heading_cell(otp, name, _runs), do: "#{otp}: #{name}"

  defp common_cells(result, ["operation" | _]), do: [result["variant"], thousands(result["size"])]

  defp common_cells(result, _common) do
    [
      "`#{result["row"]}`",
      markdown_size(result["size"]),
      result["variant"],
      sign(result["target"])
    ]
  end

  defp cells_or_blank(nil, _cells, own, runs),
    do: List.duplicate("", div(length(own), length(runs)))

  defp cells_or_blank(result, cells, _own, _runs), do: cells.(result)

  defp cells(result) do
    unit = String.to_existing_atom(result["unit"])
    reached = %{true => "reached", false => "**short**", nil => ""}

    [
      figure(result["ours"], unit),
      figure(result["theirs"], unit),
      number(result["ratio"]),
      spread(result["spread"]),
      reached[result["reached"]]
    ]
  end

  defp call_cells(result) do
    [
      figure(result["ours"], :ns),
      "`#{result["function"]}`",
      figure(result["ran_ns"], :ns),
      "#{result["long_schedule_ms"]} ms"
    ]
  end

  defp markdown_line(cells), do: ["| ", Enum.map_join(cells, " | ", &"#{&1}"), " |\n"]

  defp sign(nil), do: ""
  defp sign(target), do: target |> String.replace(">=", "≥") |> String.replace("<=", "≤")

  # A mean covers all sizes.
  defp size(nil), do: "all"
  defp size(size), do: "#{size}"

  defp markdown_size(nil), do: "all"
  defp markdown_size(size), do: thousands(size)

  @doc "Formats a number with commas."
  def thousands(number) when is_integer(number) do
    number
    |> Integer.digits()
    |> Enum.reverse()
    |> Enum.chunk_every(3)
    |> Enum.map_join(",", &Enum.join/1)
    |> String.reverse()
  end

  defp commit do
    with git when git != nil <- System.find_executable("git"),
         {commit, 0} <- System.cmd(git, ~w(describe --always --dirty), stderr_to_stdout: true) do
      String.trim(commit)
    else
      _no_git_or_repository -> "unknown"
    end
  end

  defp cpu do
    with {:ok, text} <- File.read("/proc/cpuinfo"),
         [_line, name] <- Regex.run(~r/^model name\s*: (.*)$/m, text) do
      name
    else
      _not_linux_or_no_such_line -> "unknown"
    end
  end

  defp total_memory do
    with {:ok, text} <- File.read("/proc/meminfo"),
         [_line, kilobytes] <- Regex.run(~r/^MemTotal:\s*(\d+) kB$/m, text) do
      String.to_integer(kilobytes) * 1024
    else
      _not_linux_or_no_such_line -> 0
    end
  end

  defp system do
    {major, minor, patch} = :os.version()
    "#{elem(:os.type(), 1)} #{major}.#{minor}.#{patch}"
  end

  # The load of the machine. Above the number of schedulers, the figures suffer.
  defp load do
    case File.read("/proc/loadavg") do
      {:ok, text} -> text |> String.split() |> Enum.take(3) |> Enum.join(" ")
      {:error, _not_linux} -> "unknown"
    end
  end
end
