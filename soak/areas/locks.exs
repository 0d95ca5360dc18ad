defmodule Soak.Locks do
  @moduledoc false
  # `Foundation.Registry.lock/4` and `ensure/3`. A process inside a lock, or inside a function of
  # `ensure/3`, finds no other living process there. Faults kill members inside as well. Locks
  # outlive the supervisor of the registry area. They end with the application, which starts a new
  # epoch.

  @behaviour Soak.Area

  alias Foundation.{Registry, Timeout}
  alias Soak.{Crew, Epoch, Record}

  @table __MODULE__
  @locks 2

  @impl true
  def name, do: "locks"

  @impl true
  def invariants,
    do: [locks: "locks with two holders", flights: "callers of ensure/3 without the outcome"]

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
      if :rand.uniform(2) == 1, do: locked(lock, epoch), else: ensured({:flight, lock}, epoch)
    end)

    {1, index}
  end

  defp locked(lock, epoch) do
    timeout = Enum.random([0, 1, :infinity])
    Registry.lock(Soak.Unique, {:lock, lock}, fn -> inside(lock, epoch) end, timeout)
  rescue
    Timeout -> :timeout
  end

  # It starts no process, so the next caller runs its function again.
  defp ensured(flight, epoch) do
    outcome =
      Registry.ensure(Soak.Unique, flight, fn ->
        inside(flight, epoch)
        {:error, {:outcome, flight}}
      end)

    Record.check!(:flights, outcome == {:error, {:outcome, flight}}, fn -> {flight, outcome} end)
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
