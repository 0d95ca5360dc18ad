defmodule Foundation.Cluster.Conflict do
  @moduledoc false
  # Which of several claims for a name stands, and what happens to a registration that loses.
  #
  # Each node is the only writer of its own claims, and all nodes order claims alike. Nodes that
  # know the same claims therefore agree, in whatever order they heard of them.

  alias Foundation.Cluster.{Config, Replica}

  @type claims :: %{node => Replica.claim()}

  @doc "The claim that stands: the oldest, and of two of one moment the one of the lesser node."
  @spec winner(claims) :: Replica.claim() | nil
  def winner(claims) when claims == %{}, do: nil

  def winner(claims) do
    {_node, claim} = Enum.min_by(claims, fn {node, {_pid, stamp, _value}} -> {stamp, node} end)
    claim
  end

  @doc "Counts and tells the loss of a registration of this node."
  @spec lost(Config.t(), term, loser :: pid, winner :: pid) :: :ok
  def lost(config, key, loser, winner) do
    Config.count_conflict(config)
    send(loser, {:foundation_cluster, config.name, :conflict, key, winner})
    if config.on_conflict == :exit, do: Process.exit(loser, :kill)

    # Other people's functions may block: no registration waits for them.
    execute(:conflict, %{cluster: config.name, key: key, winner: winner, loser: loser})

    with {module, function, arguments} <- config.on_conflict,
         do: spawn(module, function, [config.name, key, loser, winner | arguments])

    :ok
  end

  @doc "Emits an event in a process of its own."
  @spec execute(atom, map) :: :ok
  def execute(event, metadata) do
    spawn(:telemetry, :execute, [[:foundation, :cluster, event], %{count: 1}, metadata])
    :ok
  end
end
