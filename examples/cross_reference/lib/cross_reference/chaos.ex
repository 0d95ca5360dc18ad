defmodule CrossReference.Chaos do
  @moduledoc false
  # Kills agents at random while they work, and the owner of each registry once.

  alias Foundation.AgentRegistry
  alias CrossReference.{Await, Tally}

  @doc """
  Returns the victims of `percent` of `modules`, each once, in the order in which they are to die.

  The same seed gives the same victims. The state of `:rand` is passed along, not
  left in the process dictionary.
  """
  @spec victims([module], 0..100, non_neg_integer) :: [module]
  def victims(modules, percent, seed) do
    modules
    |> shuffle(seed)
    |> Enum.take(round(length(modules) * percent / 100))
  end

  @spec shuffle([term], non_neg_integer) :: [term]
  def shuffle(terms, seed) do
    {tagged, _state} =
      Enum.map_reduce(terms, :rand.seed_s(:exsss, seed), fn term, state ->
        {number, state} = :rand.uniform_s(state)
        {{number, term}, state}
      end)

    tagged |> Enum.sort() |> Enum.map(&elem(&1, 1))
  end

  @doc """
  Kills the victims one by one, spread evenly over the first passes of `total` agents,
  and half way the processes named in `owners`. Returns when all of them are back.
  """
  @spec run([module], [atom], Tally.t(), pos_integer, (non_neg_integer -> term)) :: :ok
  def run(victims, owners, tally, total, killed) do
    half = div(length(victims), 2)

    for {victim, n} <- Enum.with_index(victims, 1) do
      Await.until!("progress of the agents", fn ->
        Tally.get(tally, :passes) >= total * n / (length(victims) + 1)
      end)

      {:ok, agent} = AgentRegistry.get_agent({:module, victim})
      kill(agent)
      if n - 1 == half, do: Enum.each(owners, &kill_owner/1)
      killed.(n)
    end

    Await.until!("restarted agents", fn ->
      Tally.get(tally, :starts) == total + length(victims)
    end)
  end

  defp kill_owner(name) do
    owner = Process.whereis(name)
    kill(owner)

    Await.until!("a new owner of #{inspect(name)}", fn ->
      Process.whereis(name) not in [nil, owner]
    end)
  end

  defp kill(pid) do
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^monitor, :process, ^pid, _reason} -> :ok
    end
  end
end
