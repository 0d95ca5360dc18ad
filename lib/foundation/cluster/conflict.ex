defmodule Foundation.Cluster.Conflict do
  @moduledoc false
  # Which of several claims for a name stands, and what happens to a registration that loses.
  #
  # Each node is the only writer of its own claims, and all nodes order claims alike. Nodes that
  # know the same claims therefore agree, in whatever order they heard of them.

  alias Foundation.Cluster.{Config, Replica, Replicator}

  # The stamp of a claim that has lost and is being removed. It is younger than any other.
  @lost :lost

  @type claims :: %{node => Replica.claim()}

  @doc "The claim that stands: the oldest, and of two of one moment the one of the lesser node."
  @spec winner(claims) :: Replica.claim() | nil
  def winner(claims) when claims == %{}, do: nil

  def winner(claims) do
    {_node, claim} = Enum.min_by(claims, fn {node, {_pid, stamp, _value}} -> {stamp, node} end)
    claim
  end

  @doc """
  Takes a name from a process of this node that has lost it, and tells the process.

  Returns `:changed` if the claim is not the present one. The steps run in a process of their own:
  if the replicator is killed between them, the loser is still told, and told once.
  """
  @spec lose(Config.t(), term, Replica.claim(), winner :: pid) :: :ok | :changed
  # The process of a replicator that was killed is about to remove it.
  def lose(_config, _key, {_pid, @lost, _value}, _winner) do
    Process.sleep(1)
    :changed
  end

  def lose(config, key, {pid, _stamp, value} = claim, winner) do
    replicator = self()
    ref = make_ref()

    {helper, monitor} =
      spawn_monitor(fn ->
        marked? = Replica.replace(config, key, claim, {pid, @lost, value})
        if marked?, do: withdraw(config, key, pid, winner)
        send(replicator, {ref, if(marked?, do: :ok, else: :changed)})

        # The replicator goes on: these two may wait for it, or for other nodes.
        if marked? do
          Replicator.changed(config, {:name, key})
          config.backend.lost(config, key, pid, winner)
        end
      end)

    receive do
      {^ref, result} ->
        Process.demonitor(monitor, [:flush])
        result

      {:DOWN, ^monitor, :process, ^helper, reason} ->
        exit(reason)
    end
  end

  defp withdraw(config, key, loser, winner) do
    Replica.remove(config, key, loser)
    Config.count_conflict(config)
    send(loser, {:foundation_cluster, config.name, :conflict, key, winner})
    if config.on_conflict == :exit, do: Process.exit(loser, :kill)

    # Other people's functions may block: no registration waits for them.
    execute(:conflict, %{cluster: config.name, key: key, winner: winner, loser: loser})

    with {module, function, arguments} <- config.on_conflict,
         do: spawn(module, function, [config.name, key, loser, winner | arguments])
  end

  @doc "Emits an event in a process of its own."
  @spec execute(atom, map) :: :ok
  def execute(event, metadata) do
    spawn(:telemetry, :execute, [[:foundation, :cluster, event], %{count: 1}, metadata])
    :ok
  end
end
