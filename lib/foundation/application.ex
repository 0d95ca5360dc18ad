defmodule Foundation.Application do
  @moduledoc false
  use Application

  alias Foundation.{Config, Engine, FeatureFlags, TelemetrySupervisor}

  @impl true
  def start(_type, _args) do
    :ok = Config.validate!()

    with {:ok, _engine} <- Engine.boot(Config.get(:engine)),
         :ok <- FeatureFlags.boot() do
      # one_for_one: the areas do not depend on each other's processes.
      children = [FeatureFlags, TelemetrySupervisor]
      Supervisor.start_link(children, strategy: :one_for_one, name: Foundation.Supervisor)
    end
  end
end
