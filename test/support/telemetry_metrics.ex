# A stand-in for `Telemetry.Metrics`, with structs of its shape.
unless Code.ensure_loaded?(Telemetry.Metrics) do
  for kind <- [Counter, Sum, LastValue, Summary, Distribution] do
    defmodule Module.concat(Telemetry.Metrics, kind) do
      @moduledoc false
      defstruct [
        :name,
        :event_name,
        :measurement,
        :tags,
        :tag_values,
        :description,
        :unit,
        :reporter_options
      ]
    end
  end

  defmodule Telemetry.Metrics do
    @moduledoc false
    alias __MODULE__.{Counter, Distribution, LastValue, Sum}

    def counter(name, options), do: metric(Counter, name, options)
    def sum(name, options), do: metric(Sum, name, options)
    def last_value(name, options), do: metric(LastValue, name, options)
    def distribution(name, options), do: metric(Distribution, name, options)

    defp metric(module, name, options) do
      {event, [measurement]} = Enum.split(name, -1)
      struct!(module, [name: name, event_name: event, measurement: measurement] ++ options)
    end
  end
end
