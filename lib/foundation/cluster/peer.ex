defmodule Foundation.Cluster.Peer do
  @moduledoc false
  # The replicator of another node, as a replicator knows it.
  #
  # `status` is about what comes from there: `:syncing` until its claims are here, `:restarting`
  # while its process is away. `feed` is about what goes there: nothing until it has asked, then a
  # snapshot in chunks with changes in between, then changes; `:behind` if it missed one.

  @enforce_keys [:node, :pid, :monitor]
  defstruct [
    :node,
    :pid,
    :monitor,
    status: :syncing,
    feed: :idle,
    # The pull that its snapshot answers, and items that were here before and that the snapshot has
    # not confirmed yet.
    pull: nil,
    stale: MapSet.new(),
    draining?: false,
    # How many ticks a sync has been silent, and how many it may be before it is begun again.
    silent: 0,
    patience: 1
  ]

  @type feed :: :idle | {:sync, pull :: reference, items :: [tuple]} | :live | :behind
  @type t :: %__MODULE__{}

  @doc "Whether it is to be told of changes."
  @spec fed?(t) :: boolean
  def fed?(peer), do: peer.feed == :live or match?({:sync, _pull, _items}, peer.feed)

  @doc "Sends without waiting for a connection that is down or busy; says whether it could."
  @spec send(t, term) :: boolean
  def send(peer, message), do: :erlang.send(peer.pid, message, [:noconnect, :nosuspend]) == :ok
end
