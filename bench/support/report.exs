defmodule Bench.Report do
  @moduledoc false
  # The table that is printed and the file that is written.

  @columns [
    {"row", :left},
    {"size", :right},
    {"variant", :left},
    {"ours", :right},
    {"theirs", :right},
    {"ratio", :right},
    {"spread", :left},
    {"target", :right},
    {"", :left}
  ]
  @widths [22, 9, 12, 10, 10, 9, 15, 9, 5]

  def heading do
    [
      for({name, value} <- machine(), do: [String.pad_trailing("#{name}", 11), value, "\n"]),
      "\n",
      line(Enum.map(@columns, &elem(&1, 0)))
    ]
  end

  @doc "What the figures were measured on."
  def machine do
    [
      foundation: "#{Foundation.version()}, #{Foundation.engine()} engine, commit #{commit()}",
      otp:
        "#{System.otp_release()} (erts #{:erlang.system_info(:version)}, #{:erlang.system_info(:emu_flavor)})",
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
      "#{size}",
      "#{result.variant}",
      figure(result.ours, result.unit),
      figure(result.theirs, result.unit),
      number(result.ratio),
      spread(result.spread),
      target(target_of(row, size, result.variant)),
      verdict(row, size, result)
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
    ]
  end

  @doc "Whether the result reaches its target; nil where it has none at this size."
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
  defp figure(value, :ns) when value >= 1.0e6, do: number(value / 1.0e6) <> " ms"
  defp figure(value, :ns) when value >= 1.0e4, do: number(value / 1.0e3) <> " us"
  defp figure(value, :ns), do: number(value) <> " ns"
  defp figure(value, :bytes) when value >= 1.0e5, do: number(value / 1.0e6) <> " MB"
  defp figure(value, :bytes), do: number(value) <> " B"

  defp number(value) when value >= 100, do: "#{round(value)}"
  defp number(value) when value >= 10, do: :erlang.float_to_binary(value / 1, decimals: 1)
  defp number(value), do: :erlang.float_to_binary(value / 1, decimals: 2)

  defp line(cells) do
    [@columns, @widths, cells]
    |> Enum.zip_with(fn [{_name, side}, width, cell] -> pad("#{cell}", width, side) end)
    |> Enum.join(" ")
    |> String.trim_trailing()
    |> Kernel.<>("\n")
  end

  defp pad(text, width, :left), do: String.pad_trailing(text, width)
  defp pad(text, width, :right), do: String.pad_leading(text, width)

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

  # What else ran meanwhile: above the number of schedulers, the figures suffer.
  defp load do
    case File.read("/proc/loadavg") do
      {:ok, text} -> text |> String.split() |> Enum.take(3) |> Enum.join(" ")
      {:error, _not_linux} -> "unknown"
    end
  end
end
