defmodule Foundation.Cluster.StartTest do
  # A cluster restarts, and one of its processes is killed in its start.
  use Foundation.Case, async: true

  alias Foundation.{Cluster, Native}
  alias Foundation.Cluster.{Backends, Config}

  @moduletag :capture_log

  defmodule Victim do
    @moduledoc false
    # Is killed in its start as often as a counter says.
    use GenServer

    def start_link(kills), do: GenServer.start_link(__MODULE__, kills)

    @impl true
    def init(kills) do
      if :atomics.sub_get(kills, 1, 1) >= 0, do: Process.exit(self(), :kill)
      {:ok, kills}
    end
  end

  defmodule Backend do
    @moduledoc false
    # As `:pg`, with a process of its own.
    @behaviour Foundation.Cluster.Backend

    @impl true
    def children(%{on_conflict: {_module, _function, [kills]}}), do: [{Victim, kills}]

    @impl true
    defdelegate available, to: Backends.Pg
    @impl true
    defdelegate claim(config, key, pid, stamp), to: Backends.Pg
    @impl true
    defdelegate release(config, key, pid), to: Backends.Pg
    @impl true
    defdelegate lost(config, key, loser, winner), to: Backends.Pg
    @impl true
    defdelegate keeps_names?, to: Backends.Pg
    @impl true
    defdelegate decides?, to: Backends.Pg
  end

  for tables <- [:native, :ets], tables == :ets or Native.library_version() != nil do
    test "a kill during the restart loses no name, with #{tables} tables" do
      cluster = unique_name("start")
      kills = :atomics.new(1, [])
      on_conflict = {__MODULE__, :unused, [kills]}
      options = [name: cluster, tables: unquote(tables), on_conflict: on_conflict]
      config = %{Config.validate!(options) | backend: Backend}
      start = {Cluster.Supervisor, :start_link, [config]}
      start_supervised!(%{id: cluster, start: start, type: :supervisor})
      {:ok, _owner} = Cluster.register(cluster, "key", 1)

      replicator = Process.whereis(config.replicator)
      :atomics.put(kills, 1, 2)
      kill(Process.whereis(config.supervisor))

      # It starts after the process that is killed.
      eventually(fn -> Process.whereis(config.replicator) not in [nil, replicator] end)
      assert :atomics.get(kills, 1) == -1
      assert Cluster.lookup(cluster, "key") == [{self(), 1}]
    end
  end
end
