defmodule Foundation.Cluster.Backends.Pg do
  @moduledoc false
  # No node is asked before a registration. Two nodes may give one name at the same time; the
  # replicators find the conflict and the older registration wins.

  @behaviour Foundation.Cluster.Backend

  @impl true
  def available, do: :ok

  @impl true
  def children(_config), do: []

  @impl true
  def claim(_config, _key, _pid, _stamp), do: :ok

  @impl true
  def release(_config, _key, _pid), do: :ok

  @impl true
  def lost(_config, _key, _loser, _winner), do: :ok

  @impl true
  def keeps_names?, do: false

  @impl true
  def decides?, do: false
end
