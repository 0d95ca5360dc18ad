defmodule Foundation.Cluster.Membership do
  @moduledoc false
  # Which replicators there are, as the cluster's `:pg` scope tells. Its scope process may crash,
  # and forgets what it knew; the replicator that hears of it joins again.

  @group :replicators

  defstruct [:ref, :monitor, known: []]

  @type t :: %__MODULE__{ref: reference, monitor: reference, known: [pid]}

  @doc "Joins the scope as a replicator, and subscribes to it. `nil` while the scope is restarted."
  @spec join(map) :: t | nil
  def join(%{scope: scope}) do
    with pid when is_pid(pid) <- Process.whereis(scope) do
      monitor = Process.monitor(pid)
      :ok = :pg.join(scope, @group, self())
      {ref, groups} = :pg.monitor_scope(scope)
      %__MODULE__{ref: ref, monitor: monitor, known: Map.get(groups, @group, [])}
    end
  catch
    # The scope has ended meanwhile.
    :exit, {_reason, {:gen_server, :call, _arguments}} -> nil
  end

  @doc "The replicators that a message tells of, or `nil` for a message that is not the scope's."
  @spec joined(t | nil, term) :: [pid] | nil
  def joined(%__MODULE__{ref: ref}, {ref, :join, @group, pids}), do: pids
  # A replicator that leaves is monitored already.
  def joined(%__MODULE__{ref: ref}, {ref, _event, _group, _pids}), do: []
  def joined(_membership, _message), do: nil
end
