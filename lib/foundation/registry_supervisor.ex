defmodule Foundation.RegistrySupervisor do
  @moduledoc """
  Supervises what the registry needs besides its tables, and the table of
  `Foundation.AgentRegistry`.

  Tables started with `Foundation.Registry.start_link/1` belong to their own supervisors,
  wherever those are.
  """

  use Supervisor

  alias Foundation.{AgentRegistry, Predecessor}
  alias Foundation.Registry.{Cleanup, Locks, Monitor, TableHolder}

  @processes [TableHolder, Cleanup, Monitor, Locks]

  # None of the children waits at its start, and their state is in tables: a restart costs and
  # loses nothing. Giving up would end the agents' table, so the supervisor does so only when
  # restarts do not help.
  @max_restarts 1_000
  @max_seconds 5

  @doc false
  def start_link(options) do
    # Not in init/1, which a code change calls in the supervisor that runs.
    Predecessor.await_gone([AgentRegistry.table() | @processes])
    Supervisor.start_link(__MODULE__, options, name: __MODULE__)
  end

  @doc false
  # The names of the processes beside the agents' table.
  def processes, do: @processes

  @impl true
  def init(_options) do
    # one_for_one: what they share is in tables that outlive each of them, and each finds
    # its state there when it starts; none holds another's pid.
    Supervisor.init(@processes ++ [AgentRegistry],
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end
end
