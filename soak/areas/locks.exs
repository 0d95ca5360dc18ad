defmodule Soak.Locks do
  @moduledoc false
  # `Foundation.Registry.lock/3`. A process inside the lock finds no other living process there.
  # Faults kill members inside as well. Locks outlive the supervisor of the registry area. They end
  # with the application, which starts a new epoch.

  @behaviour Soak.Area

  alias Foundation.Registry
  alias Soak.{Crew, Epoch, Record}

  @table __MODULE__
  @locks 2

  @impl true
  def name, do: "locks"

  @impl true
  def invariants, do: [locks: "locks with two holders"]

  @impl true
  def open(_options) do
    Epoch.open([:locks])
    @table = :ets.new(@table, [:named_table, :public])
  end

  @impl true
  def crew, do: [%{count: 5, init: & &1, step: &lock/1, mortal?: true}]

  @impl true
  def faults(_engine), do: [{"holder or waiter of a lock killed", 4, &kill/0}]

  defp lock(index) do
    lock = :rand.uniform(@locks)

    Epoch.judge(:locks, fn epoch ->
      Registry.lock(Soak.Unique, {:lock, lock}, fn -> inside(lock, epoch) end)
    end)

    {1, index}
  end

  defp inside(lock, epoch) do
    others = for {^lock, pid, ^epoch} <- :ets.lookup(@table, lock), Process.alive?(pid), do: pid
    :ets.insert(@table, {lock, self(), epoch})
    if :rand.uniform(4) == 1, do: Process.sleep(1)
    mine? = :ets.lookup(@table, lock) == [{lock, self(), epoch}]
    :ets.match_delete(@table, {lock, self(), :_})
    Record.check!(:locks, others == [] and mine?, fn -> {lock, others, mine?} end)
  end

  defp kill do
    with pid when is_pid(pid) <- Crew.victim(__MODULE__), do: Process.exit(pid, :kill)
  end

  @impl true
  def audit, do: :ok
end
