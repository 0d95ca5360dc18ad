defmodule Soak.Agents do
  @moduledoc false
  # The registry of agents. Faults kill its owner and its whole supervisor.

  @behaviour Soak.Area

  alias Foundation.{AgentRegistry, RegistrySupervisor}
  alias Soak.{Epoch, Faults, Record}

  import Foundation.Eventually

  @shared {:soak, :shared}
  @dying 100

  @impl true
  def name, do: "agents"

  @impl true
  def invariants do
    [
      agents: "agents not as registered",
      updates: "updates of metadata lost",
      cleanup: "deaths of agents not told of"
    ]
  end

  @impl true
  def open(_options) do
    Epoch.open([:agents])
    cleaned = :counters.new(1, [])
    :persistent_term.put(__MODULE__, cleaned)
    event = [:foundation, :registry, :cleanup]
    :ok = :telemetry.attach(__MODULE__, event, &__MODULE__.cleaned/4, cleaned)
  end

  @doc false
  def cleaned(_event, %{count: count}, _metadata, counter), do: :counters.add(counter, 1, count)

  @impl true
  def crew do
    [
      %{count: 2, init: &%{index: &1, n: 0}, step: &life/1},
      %{count: 2, init: & &1, step: &update/1},
      %{count: 1, init: fn _index -> nil end, step: &hold/1}
    ]
  end

  @impl true
  def faults(:native) do
    [
      {"owner of the agents killed", 3, fn -> Faults.kill(AgentRegistry.table()) end},
      {"Foundation.RegistrySupervisor killed", 2, &kill_supervisor/0},
      {"Foundation.RegistrySupervisor stopped in order", 1,
       fn -> Faults.restart(Foundation.Supervisor, RegistrySupervisor, [:agents]) end},
      {"application stopped and started", 1, &restart_application/0}
    ]
  end

  # In the ETS engine the tables end with their holder and its supervisor.
  def faults(:ets),
    do: [{"owner of the agents killed", 3, fn -> Faults.kill(AgentRegistry.table()) end}]

  defp kill_supervisor do
    owner = Faults.await(AgentRegistry.table())
    Faults.kill(RegistrySupervisor)
    # The supervisor starts this process last, so all others are up.
    Faults.await(AgentRegistry.table(), owner)
  end

  defp restart_application do
    Epoch.change([:agents, :locks, :telemetry, :flags, :context, :cache], fn ->
      :ok = Application.stop(:foundation)
      :ok = Application.start(:foundation)
      eventually(&Soak.Cache.open?/0)
    end)
  end

  ## Agents that come and go

  defp life(%{index: index, n: n} = state) do
    id = {:soak, index, n}
    agent = spawn(fn -> Process.sleep(:infinity) end)
    other = spawn(fn -> Process.sleep(:infinity) end)

    Epoch.judge(:agents, fn _epoch ->
      expect(AgentRegistry.register_agent(id, agent, %{n: n}), :ok)
      expect(AgentRegistry.get_agent(id), {:ok, agent})
      expect(AgentRegistry.get_agent_with_metadata(id), {:ok, {agent, %{n: n}}})
      taken = {:error, {:already_registered, agent}}
      expect(AgentRegistry.register_agent(id, other), taken)

      if rem(n, 2) == 0 do
        expect(AgentRegistry.unregister_agent(id), :ok)
        expect(AgentRegistry.get_agent(id), {:error, :not_found})
      else
        kill(agent)
        expect(AgentRegistry.get_agent(id), {:error, :not_found})
        expect(AgentRegistry.register_agent(id, agent), {:error, :not_alive})
      end

      # The id is free, even if its holder has died just now.
      expect(AgentRegistry.register_agent(id, other), :ok)
      expect(AgentRegistry.get_agent(id), {:ok, other})
      if rem(n, 20) == 0, do: expect({id, other} in AgentRegistry.list_agents(), true)
    end)

    kill(agent)
    kill(other)

    Epoch.judge(:agents, fn _epoch ->
      expect(AgentRegistry.get_agent(id), {:error, :not_found})
    end)

    {10, %{state | n: n + 1}}
  end

  defp expect(found, expected),
    do: Record.check!(:agents, found == expected, fn -> {found, :instead_of, expected} end)

  defp kill(pid) do
    Process.exit(pid, :kill)
    spin_until_dead(pid)
  end

  defp spin_until_dead(pid), do: if(Process.alive?(pid), do: spin_until_dead(pid), else: :ok)

  ## One agent whose metadata all change

  # This member is the agent.
  defp hold(epoch_held) do
    held =
      Epoch.judge(:agents, fn epoch ->
        if epoch != epoch_held do
          :ok = AgentRegistry.register_agent(@shared, self(), %{epoch: epoch, updates: 0})
        end

        epoch
      end)

    Process.sleep(2)

    case held do
      {:ok, epoch} -> {1, epoch}
      :unjudged -> {0, epoch_held}
    end
  end

  defp update(index) do
    result =
      Epoch.judge(:agents, fn epoch ->
        AgentRegistry.update_metadata(@shared, fn %{epoch: of, updates: n} = metadata ->
          # The entry of the previous epoch, before `hold/1` registers the agent again.
          if of == epoch, do: %{metadata | updates: n + 1}, else: throw(:of_another_epoch)
        end)
      end)

    with {:ok, :ok} <- result, do: Record.add({:updates, Epoch.now(:agents)}, 1)
    {1, index}
  catch
    :of_another_epoch -> {0, index}
  end

  ## Audit

  @impl true
  def audit do
    Faults.await(AgentRegistry.table())
    epoch = Epoch.now(:agents)

    with {:ok, {_pid, %{epoch: ^epoch, updates: updates}}} <-
           AgentRegistry.get_agent_with_metadata(@shared) do
      counted = Record.get({:updates, epoch})
      Record.check!(:updates, updates == counted, fn -> {updates, :of, counted} end)
    end

    told_of_deaths()
  end

  # During the audit nobody kills a process that counts or reports deaths.
  defp told_of_deaths do
    eventually(fn -> AgentRegistry.count() == length(AgentRegistry.list_agents()) end)
    Process.sleep(50)
    before = :counters.get(cleaned(), 1)
    agents = for _n <- 1..@dying, do: spawn(fn -> Process.sleep(:infinity) end)
    for pid <- agents, do: :ok = AgentRegistry.register_agent({:soak, pid}, pid)
    Enum.each(agents, &kill/1)

    told = fn -> :counters.get(cleaned(), 1) - before end

    try do
      eventually(fn -> told.() >= @dying end)
    rescue
      _not_in_time in ExUnit.AssertionError -> :ok
    end

    Record.check!(:cleanup, told.() == @dying, fn -> {told.(), :of, @dying} end)
  end

  defp cleaned, do: :persistent_term.get(__MODULE__)
end
