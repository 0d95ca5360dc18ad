defmodule Foundation.Telemetry.MetricsTest do
  use ExUnit.Case, async: true

  alias Foundation.Telemetry.Metrics

  @dashboard "guides/dashboards/foundation.json"

  doctest Metrics

  test "every event that a module documents has a metric, and every metric a documented event" do
    documented =
      for file <- Path.wildcard("lib/foundation/**/*.{ex,md}"),
          [_all, event] <-
            Regex.scan(~r/^\s*\| `\[:foundation, ([:\w, ]+)\]`/m, File.read!(file)),
          uniq: true,
          do: [
            :foundation | for(":" <> part <- String.split(event, ", "), do: String.to_atom(part))
          ]

    assert length(documented) > 25
    measured = for metric <- Metrics.definitions(), uniq: true, do: metric.event_name
    assert Enum.sort(documented) -- measured == []
    assert measured -- documented == []
  end

  test "names are unique, and durations have a unit and buckets" do
    names = for metric <- Metrics.definitions(), do: metric.name
    assert Enum.uniq(names) == names

    for %{name: name} = metric <- Metrics.definitions(), List.last(name) == :duration do
      assert [_ | _] = metric.reporter_options[:buckets]
      assert metric.unit in [{:native, :millisecond}, :millisecond]
    end
  end

  test "tags are few and can be printed" do
    span = %{name: [:jido, :cmd], status: {:error, make_ref()}, kind: :throw}
    assert %{name: "jido.cmd", status: :error, kind: :throw} = Metrics.tag_values(span)
    assert %{status: :ok} = Metrics.tag_values(%{status: :ok})
    assert %{status: :other} = Metrics.tag_values(%{status: "done"})
    assert %{name: MyApp.LLM} = Metrics.tag_values(%{name: {MyApp.LLM, "tenant"}})
    assert %{name: "nil"} = Metrics.tag_values(%{name: nil})
    assert %{name: "{1, 2}"} = Metrics.tag_values(%{name: {1, 2}})
  end

  test "without the package the error says what is missing" do
    assert_raise RuntimeError, ~r/needs the package :telemetry_metrics.*add {:telemetry_m/s, fn ->
      Metrics.build(Not.There)
    end
  end

  test "the dashboard asks for the metrics that there are, and for each of them" do
    asked =
      for [name] <- Regex.scan(~r/\bfoundation_\w+/, File.read!(@dashboard)), uniq: true, do: name

    given =
      for metric <- Metrics.definitions() do
        name = Enum.join(metric.name, "_")
        distribution? = metric.__struct__ == Telemetry.Metrics.Distribution

        if distribution?,
          do: for(part <- ~w(bucket sum count), do: "#{name}_#{part}"),
          else: [name]
      end

    assert asked -- List.flatten(given) == []
    for names <- given, do: assert(Enum.any?(names, &(&1 in asked)), "#{hd(names)} is not shown")
  end
end
