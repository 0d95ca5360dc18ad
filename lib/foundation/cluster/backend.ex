defmodule Foundation.Cluster.Backend do
  @moduledoc """
  The engine of a `Foundation.Cluster`: it decides which process may have a name.

  The replicas, the membership and the resolution of conflicts are the same for every engine. An
  engine may refuse a registration before it is in any replica. `:pg` never does: it lets both
  sides register, and the conflict is resolved when they meet. `:global` asks all nodes first.
  """

  alias Foundation.Cluster.Config

  @type key :: term

  @doc """
  Claims a name for a process of this node, before it is registered in the replica.

  Runs in the caller of `register/3`. An engine that promises uniqueness returns `:ok` only if the
  process has the name on all nodes that it can reach.
  """
  @doc since: "0.1.0"
  @callback claim(Config.t(), key, pid) :: :ok | {:error, {:already_registered, pid}}

  @doc """
  Gives back a name that `c:claim/3` claimed for the process. A name that another process has by
  now stays. The death of the process does the same without a call.
  """
  @doc since: "0.1.0"
  @callback release(Config.t(), key, pid) :: :ok

  @doc """
  Returns whether `c:claim/3` is stronger than an entry of another node in the replica. Then the
  entry is out of date: the caller asks its node for the present state, and tries again.
  """
  @doc since: "0.1.0"
  @callback decides?() :: boolean
end
