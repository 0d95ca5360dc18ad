defmodule Crew.Application do
  @moduledoc false
  use Application

  alias Foundation.Telemetry.{Sampler, SampledEvents}

  @impl true
  def start(_type, _arguments) do
    # Every action is reported, in batches. Failures come in floods: each is reported once a
    # minute, and at most ten different ones a second.
    :ok = SampledEvents.configure_event([:crew, :action], batch_size: 100, batch_timeout: 1_000)
    :ok = SampledEvents.configure_event([:crew, :failure], window: 60_000)
    :ok = Sampler.configure_event([:crew, :failure], {:rate_limited, 10})

    Supervisor.start_link([{DynamicSupervisor, name: Crew.Agents}],
      strategy: :one_for_one,
      name: Crew.Supervisor
    )
  end
end
