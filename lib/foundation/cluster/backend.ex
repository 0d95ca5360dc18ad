defmodule Foundation.Cluster.Backend do
  @moduledoc """
  The engine of a `Foundation.Cluster`: it decides which process may have a name.

  The replicas, the membership and the resolution of conflicts are the same for every engine. An
  engine may refuse a registration before it is in any replica. `:pg` never does: it lets both
  sides register, and the conflict is resolved when they meet. `:global` asks all nodes first, and
  `:syn` asks the registry of that name on its own node.
  """

  @type key :: term

  @typedoc "The options of the cluster, and the names of its tables and processes."
  @type config :: struct

  @doc """
  Returns `:ok` if the engine can be used on this node, or what is missing for it.

  Called before the cluster starts.
  """
  @doc since: "0.1.0"
  @callback available() :: :ok | {:error, message :: String.t()}

  @doc """
  Returns the processes that the engine needs on this node, started after the replica and before
  the replicator.
  """
  @doc since: "0.1.0"
  @callback children(config) :: [Supervisor.child_spec() | {module, term}]

  @doc """
  Claims a name for a process of this node, before it is registered in the replica.

  Runs in the caller of `register/3`. `stamp` is the time of the registration, by which conflicts
  are decided. An engine that promises uniqueness returns `:ok` only if the process has the name on
  all nodes that it can reach.
  """
  @doc since: "0.1.0"
  @callback claim(config, key, pid, stamp :: integer) ::
              :ok | {:error, {:already_registered, pid}}

  @doc """
  Gives back a name that `c:claim/4` claimed for the process. A name that another process has by
  now stays. The death of the process does the same without a call.
  """
  @doc since: "0.1.0"
  @callback release(config, key, pid) :: :ok

  @doc """
  A process of this node has lost the name to an older registration, by the cluster's rule.

  An engine that has decided otherwise gives the name to the winner, or gives it up. Runs in a
  process of its own.
  """
  @doc since: "0.1.0"
  @callback lost(config, key, loser :: pid, winner :: pid) :: :ok

  @doc "Returns whether the engine keeps names of its own, which an orderly stop has to give back."
  @doc since: "0.1.0"
  @callback keeps_names?() :: boolean

  @doc """
  Returns whether `c:claim/4` is stronger than an entry of another node in the replica. Then the
  entry is out of date: the caller asks its node for the present state, and tries again.
  """
  @doc since: "0.1.0"
  @callback decides?() :: boolean
end
