defmodule Foundation.Cluster.Backend do
  @moduledoc """
  What an engine of `Foundation.Cluster` decides: which process may have a name.

  The replicas, the membership and the resolution of conflicts are the same for every engine. An
  engine may refuse a registration before it is in any replica. `:pg` never does: it lets both
  sides register, and the conflict is resolved when they meet. `:global` asks all nodes first.
  """

  alias Foundation.Cluster.Config

  @type key :: term

  @doc """
  Claims a name for a process of this node, before it is registered in the replica.

  Runs in the caller of `register/3`. What it returns is final: on `:ok` the caller's process has
  the name on all nodes that the engine can reach, if the engine promises that at all.
  """
  @callback claim(Config.t(), key, pid) :: :ok | {:error, {:already_registered, pid}}

  @doc """
  Gives back a name that `c:claim/3` claimed for the process. A name that another process has by
  now stays. The death of the process does the same without a call.
  """
  @callback release(Config.t(), key, pid) :: :ok

  @doc """
  Whether an entry of another node that is in the way of a claim is out of date: then the caller
  asks its node for the present state, and tries again.
  """
  @callback decides?() :: boolean
end
