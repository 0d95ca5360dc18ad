defmodule Foundation.Cluster.Replica do
  @moduledoc false
  # The tables of a cluster on this node: a unique registry of names, which has the cluster's name,
  # and a duplicate registry of groups. An entry of a name is `{stamp, value}`.
  #
  # Only the replicator writes entries of other nodes. It does not have their processes monitored
  # here: each node tells the others of its deaths, and the replicator watches the node.

  alias Foundation.Native
  alias Foundation.Registry
  alias Foundation.Registry.{Backend, Monitor}

  @type item :: {:name, term} | {:member, group :: term, pid}
  @type claim :: {pid, stamp :: integer | :lost, value :: term}

  @doc "The options of the two registries."
  @spec registries(map) :: [keyword]
  def registries(config) do
    common = [engine: config.tables, ancestors: true]

    [
      [keys: :unique, name: config.name] ++ common,
      [keys: :duplicate, name: config.groups] ++ common
    ]
  end

  @doc "The claim in the replica, of whatever node."
  @spec get(map, term) :: claim | nil
  def get(config, key) do
    case Registry.lookup(config.name, key) do
      [{pid, {stamp, value}}] -> {pid, stamp, value}
      [] -> nil
    end
  end

  @doc "The claim of this node."
  @spec own(map, term) :: claim | nil
  def own(config, key) do
    case get(config, key) do
      {pid, _stamp, _value} = claim when node(pid) == node() -> claim
      _anothers -> nil
    end
  end

  @doc "All names of this node, with their stamps."
  @spec own(map) :: [{key :: term, pid, stamp :: integer | :lost}]
  def own(config) do
    for {key, pid, {stamp, _value}} <- Registry.stream(config.name),
        node(pid) == node(),
        do: {key, pid, stamp}
  end

  @doc "The value of a member of a group."
  @spec member(map, term, pid) :: {:in, term} | nil
  def member(config, group, pid) do
    case Registry.values(config.groups, group, pid) do
      [] -> nil
      values -> {:in, List.last(values)}
    end
  end

  @doc "Adds the claim of another node where there is none."
  @spec put(map, term, claim) :: :ok | {:error, term}
  def put(config, key, {pid, stamp, value}),
    do: insert(config, config.name, pid, key, {stamp, value})

  defp insert(config, table, pid, key, value) do
    registered =
      case config.tables do
        # Not by way of the registry's backend, which would monitor each process from here.
        :native -> Native.registry_register_for(table, pid, key, value)
        :ets -> Backend.of_engine(:ets).register(table, pid, key, value)
      end

    case registered do
      {:ok, _owner} -> :ok
      {:notify, _owner, _listeners} -> :ok
      {:error, _reason} = error -> error
      nil -> {:error, :no_table}
    end
  end

  @doc "Sets the value of a claim that is there; false if it is there no more."
  @spec replace(map, term, claim, claim) :: boolean
  def replace(config, key, {pid, old_stamp, old}, {pid, stamp, value}) do
    backend = Backend.of_engine(config.tables)
    backend.replace(config.name, key, pid, {old_stamp, old}, {stamp, value}) == :ok
  end

  @doc "Removes a claim, and has the process watched if it is of another node."
  @spec remove(map, term, pid) :: :ok
  def remove(config, key, pid), do: remove_from(config, config.name, key, pid)

  defp remove_from(config, table, key, pid) do
    Registry.unregister_for(table, pid, key)
    forget_later(config, pid)
  end

  # The library remembers a process of another node until it hears of its death. The other node
  # reports deaths only while its replicator knows the process.
  defp forget_later(%{tables: :native, name: name}, pid) when node(pid) != node(),
    do: Monitor.watch(name, pid)

  defp forget_later(_config, _pid), do: :ok

  @doc "Sets or removes a member that is a process of another node."
  @spec put_member(map, term, pid, {:in, term} | nil) :: :ok
  def put_member(config, group, pid, nil), do: remove_from(config, config.groups, group, pid)

  def put_member(config, group, pid, {:in, value}) do
    case member(config, group, pid) do
      {:in, old} when old === value ->
        :ok

      _other ->
        Registry.unregister_for(config.groups, pid, group)
        # A full table counts it among its drops.
        _ = insert(config, config.groups, pid, group, value)
        :ok
    end
  end

  @doc "The names that a process has here."
  @spec keys(map, pid) :: [term]
  def keys(config, pid), do: Registry.keys(config.name, pid)

  @doc "Removes everything of a process of another node that is dead."
  @spec remove_dead(map, pid) :: :ok
  def remove_dead(config, pid) do
    # Removed one by one: only deaths of this node count as clean-ups.
    for key <- Registry.keys(config.name, pid),
        do: Registry.unregister_for(config.name, pid, key)

    for group <- Registry.keys(config.groups, pid),
        do: Registry.unregister_for(config.groups, pid, group)

    if config.tables == :native, do: Native.registry_remote_down(config.name, pid)
    :ok
  end

  @doc "The entries of the nodes for which `of_node?` holds, as `{node, item}`."
  @spec items(map, (node -> boolean)) :: [{node, item}]
  def items(config, of_node?) do
    for {kind, table} <- [name: config.name, member: config.groups],
        {key, pid, _value} <- Registry.stream(table),
        of_node?.(node(pid)),
        do: {node(pid), if(kind == :name, do: {:name, key}, else: {:member, key, pid})}
  end

  @doc "The nodes that have entries here."
  @spec nodes(map) :: [node]
  def nodes(config),
    do: config |> items(fn _node -> true end) |> Enum.map(&elem(&1, 0)) |> Enum.uniq()

  @doc "Removes an entry of a process of another node that lives on."
  @spec remove_item(map, node, item) :: :ok
  def remove_item(config, _node, {:member, group, pid}), do: put_member(config, group, pid, nil)

  def remove_item(config, node, {:name, key}) do
    case get(config, key) do
      {pid, _stamp, _value} when node(pid) == node -> remove(config, key, pid)
      _anothers -> :ok
    end
  end

  @doc "The processes of a node that have entries here."
  @spec pids(map, node) :: [pid]
  def pids(%{tables: :native} = config, node) when node != node() do
    for table <- [config.name, config.groups],
        pid <- Native.registry_remotes(table) || [],
        node(pid) == node,
        uniq: true,
        do: pid
  end

  def pids(config, node) do
    for table <- [config.name, config.groups],
        {_key, pid, _value} <- Registry.stream(table),
        node(pid) == node,
        uniq: true,
        do: pid
  end

  @doc "Whether a name of this node is left."
  @spec local_name?(map) :: boolean
  def local_name?(config),
    do: Enum.any?(Registry.stream(config.name), fn {_key, pid, _value} -> node(pid) == node() end)
end
