defmodule Foundation.RegistrySupervisor do
  @moduledoc """
  Supervises what the registry needs besides its tables, and the table of
  `Foundation.AgentRegistry`.

  Tables started with `Foundation.Registry.start_link/1` belong to their own supervisors,
  wherever those are.
  """

  use Supervisor

  alias Foundation.AgentRegistry
  alias Foundation.Registry.Backends.ETS.Table
  alias Foundation.Registry.{Cleanup, Locks, Monitor, TableHolder}

  @processes [TableHolder, Cleanup, Monitor, Locks]

  # None of these waits, or has state that is not in a table: starting one again costs and
  # loses nothing, while giving up would take the agents' table along. So it gives up only
  # where a restart helps nothing at all.
  @max_restarts 1_000
  @max_seconds 5

  # How long a predecessor's child may take to be gone.
  @farewell_ms 5_000

  @doc false
  def start_link(options), do: Supervisor.start_link(__MODULE__, options, name: __MODULE__)

  @doc false
  # The names of the processes beside the agents' table.
  def processes, do: @processes

  @impl true
  def init(_options) do
    Enum.each([AgentRegistry.table() | @processes], &await_gone/1)

    # These belong to this process, the only one here that runs none of its own code.
    Table.open_directory()
    Locks.open_table()
    Cleanup.open_counter()

    # one_for_one: what they share is in tables that outlive each of them, and each finds
    # its state there when it starts; none holds another's pid.
    Supervisor.init(@processes ++ [AgentRegistry],
      strategy: :one_for_one,
      max_restarts: @max_restarts,
      max_seconds: @max_seconds
    )
  end

  # A supervisor that was killed leaves children that are told of it one by one, and its
  # successor may be quicker than that.
  defp await_gone(name) do
    with pid when is_pid(pid) <- Process.whereis(name) do
      ref = Process.monitor(pid)

      receive do
        {:DOWN, ^ref, :process, _pid, _reason} -> :ok
      after
        @farewell_ms -> Process.demonitor(ref, [:flush])
      end
    end
  end
end
