defmodule Crew.Application do
  @moduledoc false
  use Application

  alias Foundation.Telemetry.{Sampler, SampledEvents}

  # A restart costs little: memories are on disk, and the state of the others is in tables that
  # outlive their owners. Giving up would end all agents.
  @restarts [max_restarts: 1_000, max_seconds: 5]

  @impl true
  def start(_type, _arguments) do
    # Every action is reported, in batches. Failures come in floods: each is reported once a
    # minute, and at most ten different ones a second.
    :ok = SampledEvents.configure_event([:crew, :action], batch_size: 100, batch_timeout: 1_000)
    :ok = SampledEvents.configure_event([:crew, :failure], window: 60_000)
    :ok = Sampler.configure_event([:crew, :failure], {:rate_limited, 10})

    log = {Foundation.EventLog, name: Crew.Log, dir: Application.fetch_env!(:crew, :dir)}
    agents = {DynamicSupervisor, [name: Crew.Agents] ++ @restarts}

    # one_for_one: no process holds the pid of another area's.
    Supervisor.start_link(
      [log] ++ Crew.LLM.children() ++ [agents],
      [strategy: :one_for_one, name: Crew.Supervisor] ++ @restarts
    )
  end
end
