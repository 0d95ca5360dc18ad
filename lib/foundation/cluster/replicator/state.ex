defmodule Foundation.Cluster.Replicator.State do
  @moduledoc false
  # The state of a replicator. Nothing in it is needed to keep the names of this node.

  alias Foundation.Ancestors
  alias Foundation.Cluster.{Config, Conflict, Membership, Peer}

  @enforce_keys [:config, :ancestors, :assumed]
  defstruct [
    :config,
    :ancestors,
    # The nodes that the predecessor knew as members.
    :assumed,
    :membership,
    peers: %{},
    # Nodes that may run the cluster, by the monitor that tells if they do not.
    pending: %{},
    # Claims of other nodes for names that an older claim has: by key, then by node.
    rivals: %{},
    # Monitors of the processes of this node that have had a name or a group.
    owned: %{}
  ]

  @type t :: %__MODULE__{
          config: Config.t(),
          ancestors: Ancestors.t(),
          assumed: [node],
          membership: Membership.t() | nil,
          peers: %{node => Peer.t()},
          pending: %{reference => node},
          rivals: %{term => Conflict.claims()},
          owned: %{pid => reference}
        }

  @doc "The peer with this process, unless its node has another one by now."
  @spec peer(t, pid) :: Peer.t() | nil
  def peer(state, pid) do
    case state.peers[node(pid)] do
      %Peer{pid: ^pid} = peer -> peer
      _none_or_another -> nil
    end
  end

  @doc "Changes the peer with this process, if there is one."
  @spec with_peer(t, pid, (Peer.t() -> Peer.t())) :: t
  def with_peer(state, pid, fun) do
    case peer(state, pid) do
      nil -> state
      peer -> put_peer(state, fun.(peer))
    end
  end

  @doc "Adds or replaces a peer."
  @spec put_peer(t, Peer.t()) :: t
  def put_peer(state, peer), do: %{state | peers: Map.put(state.peers, peer.node, peer)}
end
