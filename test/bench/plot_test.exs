defmodule Foundation.Bench.PlotTest do
  # Not async: the rows use tables of fixed names.
  use ExUnit.Case, async: false

  for file <-
        ~w(support/bench support/report support/growth support/json support/plot registry_reads) do
    Code.require_file("../../bench/#{file}.exs", __DIR__)
  end

  alias Bench.{Context, Growth, JSON, Plot}

  # Returns the texts in the SVG by class. Raises unless the SVG is well-formed.
  defp texts(svg) do
    {document, []} = svg |> :erlang.binary_to_list() |> :xmerl_scan.string(quiet: true)

    for text <- :xmerl_xpath.string(~c"//text", document) do
      [class] =
        for {:xmlAttribute, :class, _, _, _, _, _, _, value, _} <- elem(text, 7), do: value

      content = for {:xmlText, _, _, _, value, _} <- elem(text, 8), do: value
      {List.to_string(class), List.to_string(List.flatten(content))}
    end
  end

  defp count(svg, what), do: length(String.split(svg, what)) - 1

  test "a run of one row writes a file, and the file renders to its plots" do
    rows = Enum.filter(Bench.RegistryReads.rows(), &(&1.name == :lookup_ets))
    context = %Context{quick?: true, rounds: 3, per_round: 500}

    written =
      for {row, point, result} <- Growth.measure(rows, context),
          do: Growth.json(row, point, result)

    {:ok, results} = JSON.decode(IO.iodata_to_binary(Foundation.JSON.encode(written)))

    [{"lookup_ets.svg", by_size}, {"lookup_ets_processes.svg", by_processes}] =
      Plot.pictures(results)

    # Ours and theirs, with integers and with binaries, at two sizes.
    assert count(by_size, "<polyline") == 4
    assert count(by_size, "<circle") == 8
    texts = texts(by_size)
    assert {"title", "lookup_ets: look up one key"} in texts
    assert {"text-ours", "Foundation, integer"} in texts
    assert {"text-theirs", "ETS, binary"} in texts

    assert for({"number quiet", text} <- texts, do: text) == [
             "1k",
             "10k",
             "entries, subscribers or events"
           ]

    assert count(by_processes, "<circle") == 8
    labels = for {"number quiet", text} <- texts(by_processes), do: text
    assert labels == ["1", "2", "4", "8", "processes"]
  end

  defp result(more) do
    Map.merge(
      %{
        "row" => "row",
        "what" => "do it",
        "against" => "theirs",
        "variant" => nil,
        "dimension" => "size",
        "size" => 1_000,
        "processes" => nil,
        "unit" => "ns",
        "ours" => 10.0,
        "theirs" => 50.0
      },
      more
    )
  end

  test "the ratio is printed below each tick of the axis" do
    svg =
      Plot.picture([result(%{}), result(%{"size" => 10_000_000, "ours" => 1, "theirs" => 1.0e6})])

    texts = texts(svg)
    assert for({"number", text} <- texts, do: text) == ["5.0×", "1,000,000×"]
    assert {"number quiet", "10M"} in texts
  end

  test "the later of two results for one point is drawn" do
    [{"row.svg", svg}] = Plot.pictures([result(%{}), result(%{"theirs" => 20.0})])
    assert for({"number", text} <- texts(svg), do: text) == ["2.0×"]
  end

  test "every point is inside the plot" do
    for values <- [[0, 0.0], [0.03, 7], [99.9, 100], [1.0e9, 3.2e9], [9.99e5, 1.0e6]] do
      [ours, theirs] = values
      svg = Plot.picture([result(%{"ours" => ours, "theirs" => theirs})])

      for [_all, y] <- Regex.scan(~r/cy="([^"]+)"/, svg) do
        assert String.to_float(y) >= 80 and String.to_float(y) <= 346
      end
    end
  end

  test "names with XML characters are escaped" do
    svg = Plot.picture([result(%{"what" => ~S(a < b & "c"), "against" => "<&>"})])
    assert {"title", ~S(row: a < b & "c")} in texts(svg)
    assert {"text-theirs", "<&>"} in texts(svg)
  end

  test "labels of lines with the same end do not overlap" do
    results = for variant <- ~w(a b c), do: result(%{"variant" => variant, "ours" => 50.0})
    svg = Plot.picture(results)

    places =
      for [_all, y] <- Regex.scan(~r/class="text-(?:ours|theirs)" x="[^"]+" y="([^"]+)"/, svg),
          do: String.to_float(y)

    assert length(places) == 6

    places
    |> Enum.sort()
    |> Enum.chunk_every(2, 1, :discard)
    |> Enum.each(fn [a, b] -> assert b - a >= 16 end)
  end

  test "JSON survives a round trip" do
    value = %{
      "a" => [1, -2.5, 1.0e-9, 123_456_789_012, nil, true, false, %{}, []],
      "b" => "\"\\\n\u00B5\u{1D11E}\0"
    }

    assert JSON.decode(IO.iodata_to_binary(Foundation.JSON.encode(value))) == {:ok, value}
    assert JSON.decode(~S( { "a" : [ 1 , 2e3 ] } )) == {:ok, %{"a" => [1, 2.0e3]}}
  end

  test "invalid JSON raises" do
    for text <- [
          "",
          "[",
          "[1,]",
          "{1:2}",
          ~S({"a"}),
          ~S("a),
          ~S("\x"),
          "1 2",
          "nul",
          ~S({"a":1,})
        ] do
      assert JSON.decode(text) == :error, text
    end
  end
end
