defmodule Foundation.Application do
  @moduledoc false
  use Application

  alias Foundation.{Cache, CacheSupervisor, Config, Engine, ErrorContext, EventLog, FeatureFlags}
  alias Foundation.{RegistrySupervisor, ResilienceSupervisor, TelemetrySupervisor}
  alias Foundation.Registry.{Cleanup, Locks}
  alias Foundation.{OpenTelemetry, Resilience}

  @impl true
  def start(_type, _args) do
    :ok = Config.validate!()

    with {:ok, _engine} <- Engine.boot(Config.get(:engine)),
         :ok <- FeatureFlags.boot() do
      # These tables belong to this process, which lives as long as the application.
      :ok = Locks.open_table()
      :ok = Cleanup.open_counter()
      :ok = Resilience.ETS.open_table()
      :ok = Resilience.Budget.open_table()
      :ok = Cache.Instance.open_tables()
      :ok = OpenTelemetry.Open.open_table()

      children = [
        FeatureFlags,
        ErrorContext.Raised,
        RegistrySupervisor,
        TelemetrySupervisor,
        EventLog.Subscriptions,
        ResilienceSupervisor,
        CacheSupervisor
      ]

      # one_for_one: the areas do not depend on each other's processes. Their state is in tables,
      # so a restart costs little. Giving up would stop the application, so the supervisor does so
      # only when restarts clearly do not help.
      Supervisor.start_link(children,
        strategy: :one_for_one,
        max_restarts: 100,
        max_seconds: 5,
        name: Foundation.Supervisor
      )
    end
  end
end
