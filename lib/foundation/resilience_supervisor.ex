defmodule Foundation.ResilienceSupervisor do
  @moduledoc """
  Supervises what bulkheads, circuit breakers and rate limiters of the ETS engine need beside their
  owners.

  Instances belong to their own supervisors, wherever those are.
  """

  use Supervisor

  alias Foundation.{Predecessor, Reaper}
  alias Foundation.Resilience.ETS

  # It has no state of its own, so starting it again costs and loses nothing.
  @max_restarts 1_000
  @max_seconds 5

  @doc false
  def start_link(options) do
    # Not in init/1, which a code change calls in the supervisor that runs.
    Predecessor.await_gone([ETS.reaper()])
    Supervisor.start_link(__MODULE__, options, name: __MODULE__)
  end

  @impl true
  def init(_options) do
    # one_for_one: there is one child, and the instances hold no pid of it.
    Supervisor.init([{Reaper, {ETS.reaper(), ETS}}],
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end
end
