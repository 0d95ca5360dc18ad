defmodule Foundation.Migration.Readiness do
  @moduledoc false
  # Whether what a stage turns on can be relied on: asked before the flag is turned on.

  alias Foundation.ErrorContext.Raised
  alias Foundation.HealthCheck

  @type area :: :registry | :error_context | :telemetry

  @spec check(area) :: :ok | {:error, {:unhealthy, area, [atom]}}
  def check(area) do
    case failing(area) do
      [] -> :ok
      parts -> {:error, {:unhealthy, area, parts}}
    end
  end

  defp failing(:registry) do
    figures = HealthCheck.check_registry()
    down(table_exists: figures.table_exists, owner_alive: figures.owner_alive)
  end

  # The metadata itself is the process's own. Beside it a context needs who keeps what is
  # raised, and a Logger that prints it.
  defp failing(:error_context) do
    down(raised: Process.whereis(Raised) != nil, logger: started?(:logger))
  end

  defp failing(:telemetry) do
    figures = HealthCheck.check_telemetry()

    down(
      tables_exist: figures.tables_exist,
      span_genserver: figures.span_genserver,
      events_genserver: figures.events_genserver,
      telemetry: started?(:telemetry)
    )
  end

  defp down(parts), do: for({part, up} <- parts, not up, do: part)

  defp started?(application) do
    List.keymember?(Application.started_applications(), application, 0)
  end
end
