defmodule Foundation.CacheSupervisor do
  @moduledoc """
  Supervises what caches need beside their owners.

  Caches belong to their own supervisors, wherever those are.
  """

  use Supervisor

  alias Foundation.Cache.{Instance, Invalidator}
  alias Foundation.{Predecessor, Reaper}

  # The children have no state that a restart would lose, so it costs nothing.
  @max_restarts 1_000
  @max_seconds 5

  @doc false
  def start_link(options) do
    # Not in init/1, which a code change calls in the supervisor that runs.
    Predecessor.await_gone([Instance.reaper(), Invalidator])
    Supervisor.start_link(__MODULE__, options, name: __MODULE__)
  end

  @impl true
  def init(_options) do
    # one_for_one: neither knows of the other.
    Supervisor.init([{Reaper, {Instance.reaper(), Instance}}, Invalidator],
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end
end
