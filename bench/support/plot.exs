defmodule Bench.Plot do
  @moduledoc false
  # Draws a file of `--growth`: one picture for each row and dimension, with ours and theirs. The
  # SVG is legible on a light and on a dark page.

  @width 780
  # The size of the plot. The legend below it grows with the number of variants.
  @left 76
  @right 580
  @top 80
  @bottom 346

  # Blue and orange differ for readers with any colour vision. Ours also has a thicker line.
  @style """
  .page{fill:#fff;stroke:#d0d7de}
  text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}
  .title{font-size:17px;font-weight:600}.quiet{fill:#59636e}.number{text-anchor:middle}
  .end{text-anchor:end}.grid{stroke:#d0d7de;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
  .ours{stroke:#c2410c;stroke-width:3}.theirs{stroke:#1d4ed8;stroke-width:2}
  .ours,.theirs{fill:none;stroke-linejoin:round}
  .dot-ours{fill:#c2410c}.dot-theirs{fill:#1d4ed8}
  .text-ours{fill:#c2410c;font-weight:600}.text-theirs{fill:#1d4ed8}
  @media(prefers-color-scheme:dark){
  .page{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}.quiet{fill:#9198a1}
  .grid{stroke:#2a313c}.axis{stroke:#9198a1}
  .ours{stroke:#fb923c}.theirs{stroke:#79b8ff}.dot-ours{fill:#fb923c}.dot-theirs{fill:#79b8ff}
  .text-ours{fill:#fb923c}.text-theirs{fill:#79b8ff}}
  """

  @dashes ["none", "7 4", "2 4"]

  @doc """
  Returns `{file name, SVG}` for each row and dimension in the results, in their order. If a point
  has two results, the later one counts.
  """
  def pictures(results) do
    results =
      results
      |> Enum.filter(&(&1["ours"] && &1["theirs"]))
      |> Map.new(&{point(&1), &1})
      |> then(fn newest ->
        results |> Enum.map(&point/1) |> Enum.uniq() |> Enum.flat_map(&List.wrap(newest[&1]))
      end)

    results
    |> Enum.map(&{&1["row"], &1["dimension"]})
    |> Enum.uniq()
    |> Enum.map(fn {row, dimension} = of ->
      suffix = if dimension == "processes", do: "_processes", else: ""

      {"#{row}#{suffix}.svg",
       results |> Enum.filter(&({&1["row"], &1["dimension"]} == of)) |> picture()}
    end)
  end

  defp point(result), do: Enum.map(~w(row variant dimension size processes), &result[&1])

  @doc "The picture of one row in one dimension."
  def picture([first | _] = results) do
    variants = results |> Enum.map(& &1["variant"]) |> Enum.uniq()
    xs = results |> Enum.map(&x_value/1) |> Enum.uniq() |> Enum.sort()
    x = scale(xs, @left + 24, @right - 24)
    values = Enum.flat_map(results, &[value(&1, "ours"), value(&1, "theirs")])
    grid = grid(values)
    y = scale(grid, @bottom, @top)
    lines = lines(results, variants)
    height = @bottom + 74 + 18 * length(variants)

    IO.iodata_to_binary([
      ~s(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 #{@width} #{height}" width="#{@width}" ),
      ~s(height="#{height}" role="img" aria-label="#{escape(title(first))}">\n<style>),
      @style,
      "</style>\n",
      ~s(<rect class="page" x="0.5" y="0.5" width="#{@width - 1}" ),
      ~s(height="#{height - 1}" rx="6"/>\n),
      text(20, 30, title(first), "title"),
      text(
        20,
        50,
        "#{unit(first)} #{conditions(first)}; logarithmic axes; lower is better",
        "quiet"
      ),
      Enum.map(grid, &grid_line(&1, y, first["unit"])),
      Enum.map(xs, &tick(&1, x)),
      text((@left + @right) / 2, @bottom + 40, x_title(first), "number quiet"),
      Enum.map(lines, &line(&1, x, y)),
      labels(lines, y),
      ratios(results, variants, x),
      "</svg>\n"
    ])
  end

  defp title(%{"dimension" => "processes"} = result), do: title(result, ", in several processes")
  defp title(result), do: title(result, "")
  defp title(%{"row" => row, "what" => what}, more), do: "#{row}: #{what}#{more}"

  defp unit(%{"unit" => "bytes"}), do: "Bytes"
  defp unit(%{"unit" => "share"}), do: "Share of reads"
  defp unit(_result), do: "Time"

  defp conditions(%{"dimension" => "processes", "size" => size}) when size > 1 do
    "on the clock for each operation of any process, at #{Bench.Report.thousands(size)}"
  end

  defp conditions(%{"dimension" => "processes"}),
    do: "on the clock for each operation of any process"

  defp conditions(%{"unit" => "bytes"}), do: "for each entry"
  defp conditions(%{"unit" => "share"}), do: "that miss, Zipf 1.0 over 1M keys"
  defp conditions(_result), do: "for each operation"

  defp x_title(%{"dimension" => "processes"}), do: "processes"
  defp x_title(_result), do: "entries, subscribers or events"

  defp x_value(%{"dimension" => "processes", "processes" => processes}), do: processes
  defp x_value(%{"size" => size}), do: size

  # A result of zero is drawn at the foot.
  defp value(result, side), do: max(result[side], 0.1)

  # Round numbers around the values. If there are only one or two powers of ten, also their halves
  # and fifths, so that a line is always near.
  defp grid(values) do
    {least, most} = Enum.min_max(values)
    {low, high} = {floor(:math.log10(least)), floor(:math.log10(most))}
    steps = if high - low > 2, do: [1], else: [1, 2, 5]
    marks = for power <- low..(high + 1), step <- steps, do: step * :math.pow(10, power)
    first = marks |> Enum.filter(&(&1 <= least)) |> List.last()
    last = Enum.find(marks, &(&1 >= most))
    Enum.filter(marks, &(&1 >= first and &1 <= max(last, 2 * first)))
  end

  # Returns a function from a value to its place between `from` and `to`, on a logarithmic scale.
  defp scale(values, from, to) do
    {least, most} = Enum.min_max(values)
    span = :math.log(most) - :math.log(least)

    fn value ->
      share = if span == 0.0, do: 0.5, else: (:math.log(value) - :math.log(least)) / span
      from + share * (to - from)
    end
  end

  # The lines to draw: ours and theirs of each variant. If theirs are different things (ETS, a
  # GenServer), the lines have their names.
  defp lines(results, variants) do
    several? = length(Enum.uniq(Enum.map(results, & &1["against"]))) > 1

    for {variant, n} <- Enum.with_index(variants), side <- ["theirs", "ours"] do
      of = results |> Enum.filter(&(&1["variant"] == variant)) |> Enum.sort_by(&x_value/1)
      points = for result <- of, do: {x_value(result), value(result, side)}
      name = if side == "ours", do: "Foundation", else: hd(of)["against"]
      named? = variant != nil and length(variants) > 1 and not (several? and side == "theirs")
      label = if named?, do: "#{name}, #{variant}", else: name
      %{side: side, label: label, points: points, dash: Enum.at(@dashes, rem(n, 3))}
    end
  end

  defp grid_line(value, y, unit) do
    place = coordinate(y.(value))

    [
      ~s(<line class="grid" x1="#{@left}" x2="#{@right}" y1="#{place}" y2="#{place}"/>\n),
      text(@left - 8, y.(value) + 4, figure(value, unit), "end quiet")
    ]
  end

  defp tick(value, x) do
    place = coordinate(x.(value))

    [
      ~s(<line class="axis" x1="#{place}" x2="#{place}" y1="#{@bottom}" y2="#{@bottom + 5}"/>\n),
      text(x.(value), @bottom + 20, size(value), "number quiet")
    ]
  end

  defp line(line, x, y) do
    points =
      Enum.map_join(line.points, " ", fn {a, b} -> "#{coordinate(x.(a))},#{coordinate(y.(b))}" end)

    [
      ~s(<polyline class="#{line.side}" stroke-dasharray="#{line.dash}" points="#{points}"/>\n),
      for {a, b} <- line.points do
        {cx, cy} = {coordinate(x.(a)), coordinate(y.(b))}
        ~s(<circle class="dot-#{line.side}" cx="#{cx}" cy="#{cy}" r="3.5"/>\n)
      end
    ]
  end

  # Labels beside the ends of the lines, moved apart where these are close together.
  defp labels(lines, y) do
    lines
    |> Enum.map(fn line -> {y.(line.points |> List.last() |> elem(1)), line} end)
    |> Enum.sort_by(&elem(&1, 0))
    |> apart()
    |> Enum.map(fn {place, line} ->
      text(@right + 16, place + 4, line.label, "text-#{line.side}")
    end)
  end

  defp apart(placed) do
    {placed, _last} =
      Enum.map_reduce(placed, @top - 17, fn {place, line}, last ->
        place = max(place, last + 17)
        {{place, line}, place}
      end)

    # Labels below the foot move up, and push those above them.
    {placed, _last} =
      placed
      |> Enum.reverse()
      |> Enum.map_reduce(@bottom + 17, fn {place, line}, last ->
        place = min(place, last - 17)
        {{place, line}, place}
      end)

    placed
  end

  # How many times theirs costs ours, below each place of the axis.
  defp ratios(results, variants, x) do
    for {variant, n} <- Enum.with_index(variants) do
      y = @bottom + 64 + 18 * n
      name = if variant && length(variants) > 1, do: ", #{variant}", else: ""

      [
        text(@right + 16, y, "theirs / ours#{name}", "quiet"),
        for result <- results, result["variant"] == variant do
          ratio = value(result, "theirs") / value(result, "ours")
          text(x.(x_value(result)), y, times(ratio), "number")
        end
      ]
    end
  end

  defp times(ratio) when ratio >= 100, do: Bench.Report.thousands(round(ratio)) <> "×"

  defp times(ratio),
    do: :erlang.float_to_binary(ratio, decimals: if(ratio >= 10, do: 0, else: 1)) <> "×"

  defp figure(value, "share"), do: "#{round(100 * value)} %"
  defp figure(value, "bytes") when value >= 1.0e6, do: "#{round(value / 1.0e6)} MB"
  defp figure(value, "bytes") when value >= 1.0e3, do: "#{round(value / 1.0e3)} kB"
  defp figure(value, "bytes"), do: "#{plain(value)} B"
  defp figure(value, _ns) when value >= 1.0e9, do: "#{round(value / 1.0e9)} s"
  defp figure(value, _ns) when value >= 1.0e6, do: "#{round(value / 1.0e6)} ms"
  defp figure(value, _ns) when value >= 1.0e3, do: "#{round(value / 1.0e3)} µs"
  defp figure(value, _ns), do: "#{plain(value)} ns"

  defp plain(value) when value >= 1, do: round(value)
  defp plain(value), do: :erlang.float_to_binary(value, decimals: 1)

  defp size(value) when value >= 1_000_000 and rem(value, 1_000_000) == 0,
    do: "#{div(value, 1_000_000)}M"

  defp size(value) when value >= 1_000 and rem(value, 1_000) == 0, do: "#{div(value, 1_000)}k"
  defp size(value), do: "#{value}"

  defp text(x, y, content, class) do
    ~s(<text class="#{class}" x="#{coordinate(x)}" y="#{coordinate(y)}">#{escape(content)}</text>\n)
  end

  defp coordinate(number), do: :erlang.float_to_binary(number / 1, decimals: 1)

  defp escape(text) do
    text
    |> String.replace("&", "&amp;")
    |> String.replace("<", "&lt;")
    |> String.replace(">", "&gt;")
    |> String.replace("\"", "&quot;")
  end
end
