defmodule Foundation.Cluster do
  @external_resource Path.join(__DIR__, "cluster/moduledoc.md")
  @moduledoc File.read!(Path.join(__DIR__, "cluster/moduledoc.md"))

  alias Foundation.Cluster.{Config, Ensure, Fanout, Replica, Replicator, Supervisor}
  alias Foundation.{Native, Options, Registry}
  alias Foundation.Registry.Backends.ETS

  @typedoc "The name of a cluster."
  @type cluster :: atom
  @type key :: term
  @type group :: term
  @type value :: term
  @type start_option ::
          {:name, cluster}
          | {:engine, :pg | :global | :syn}
          | {:on_conflict, :notify | :exit | {module, atom, [term]}}
          | {:drain_ms, non_neg_integer}

  # How long a registration waits for the node whose entry is in the way of a name that `:global`
  # has given to the caller.
  @refresh_ms 1_000
  @poll_ms 5

  @ensure_schema [
    timeout: [
      type: {:integer, 0..0xFFFF_FFFF},
      default: 5_000,
      doc: "How many milliseconds to wait: for a node that is syncing, and for the function."
    ],
    value: [type: :any, default: nil, doc: "The value to register the process with."]
  ]

  @doc """
  Starts a cluster's part on this node; returns `{:ok, supervisor}`.

  A second start under a name returns `{:error, {:already_started, pid}}`. **Cost:** O(entries of
  this node), if it continues a predecessor that crashed. Usually done by a supervisor:
  `{Foundation.Cluster, name: MyApp.Cluster}`.

  #{Options.docs(Config.schema())}

  Raises `ArgumentError` for an option that is unknown or wrong.

      iex> {:ok, _supervisor} = Foundation.Cluster.start_link(name: Docs.Cluster.Start)
      iex> Foundation.Cluster.nodes(Docs.Cluster.Start)
      [node()]
  """
  @doc since: "0.1.0"
  @spec start_link([start_option]) :: Elixir.Supervisor.on_start()
  def start_link(options), do: options |> Config.validate!() |> Supervisor.start_link()

  @doc """
  Returns the child specification of a cluster; its id is the cluster's name. **Cost:** O(1).

      iex> Foundation.Cluster.child_spec(name: Docs.Cluster.Child).id
      Docs.Cluster.Child
  """
  @doc since: "0.1.0"
  @spec child_spec([start_option]) :: Elixir.Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: Keyword.get(options, :name, Foundation.Cluster),
      start: {Foundation.Cluster, :start_link, [options]},
      type: :supervisor
    }
  end

  ## Names

  @doc """
  Registers the calling process under `key` on all nodes, with a value.

  Returns `{:ok, owner}`, `{:error, {:already_registered, pid}}` if the replica of this node has the
  key, or `{:error, :draining}` after `drain/1`. **Cost:** O(1) on this node; the other nodes are
  told afterwards. With the engine `:global` a lock on all nodes.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Register)
      iex> {:ok, _owner} = Foundation.Cluster.register(Docs.Cluster.Register, "key", 1)
      iex> Foundation.Cluster.register(Docs.Cluster.Register, "key", 2)
      {:error, {:already_registered, self()}}
  """
  @doc since: "0.1.0"
  @spec register(cluster, key, value) ::
          {:ok, pid} | {:error, {:already_registered, pid} | :draining}
  def register(cluster, key, value \\ nil) do
    claiming(Config.fetch!(cluster), self(), key, fn config, stamp ->
      with {:ok, _owner} = registered <- Registry.register(cluster, key, {stamp, value}) do
        Replicator.changed(config, {:name, key})
        registered
      end
    end)
  end

  @doc """
  Registers another process of this node, as `register/3` would if it called.

  Returns also `{:error, :not_alive}` for a dead process. **Cost:** O(1) and a message to the
  cluster's replicator and back. Raises `ArgumentError` for a process of another node.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.RegisterFor)
      iex> {:ok, agent} = Agent.start_link(fn -> 0 end)
      iex> {:ok, _owner} = Foundation.Cluster.register_for(Docs.Cluster.RegisterFor, agent, "key", 1)
      iex> Foundation.Cluster.lookup(Docs.Cluster.RegisterFor, "key") == [{agent, 1}]
      true
  """
  @doc since: "0.1.0"
  @spec register_for(cluster, pid, key, value) ::
          {:ok, pid} | {:error, {:already_registered, pid} | :not_alive | :draining}
  def register_for(_cluster, pid, _key, _value) when is_pid(pid) and node(pid) != node() do
    raise ArgumentError,
          "expected a process of node #{node()}, got: #{inspect(pid)} of node #{node(pid)}"
  end

  def register_for(cluster, pid, key, value) when is_pid(pid) do
    config = Config.fetch!(cluster)

    if Process.alive?(pid) do
      claiming(config, pid, key, fn config, stamp ->
        Replicator.call(config, {:register_for, pid, key, {stamp, value}})
      end)
    else
      {:error, :not_alive}
    end
  end

  defp claiming(config, pid, key, register) do
    # All nodes order registrations by it, with their nodes' names.
    stamp = System.system_time(:nanosecond)

    if Config.draining?(config) do
      {:error, :draining}
    else
      with :ok <- config.backend.claim(config, key, pid, stamp) do
        deadline = System.monotonic_time(:millisecond) + @refresh_ms
        (&register.(&1, stamp)) |> place(config, key, deadline) |> claimed(config, pid, key)
      end
    end
  end

  defp place(register, config, key, deadline) do
    with {:error, {:already_registered, holder}} = taken when node(holder) != node() <-
           register.(config),
         true <- config.backend.decides?() or taken,
         :ok <- Replicator.call(config, {:refresh, key}),
         true <- freed?(config, key, holder, deadline) or taken do
      place(register, config, key, deadline)
    end
  end

  # The engine has given the name to the caller: the holder has ended or unregistered, and its node
  # is about to say so.
  defp freed?(config, key, holder, deadline) do
    cond do
      not match?({^holder, _stamp, _value}, Replica.get(config, key)) ->
        true

      System.monotonic_time(:millisecond) > deadline ->
        false

      true ->
        Process.sleep(@poll_ms)
        freed?(config, key, holder, deadline)
    end
  end

  defp claimed({:ok, _owner} = registered, _config, _pid, _key), do: registered

  # It has the name already, and keeps it.
  defp claimed({:error, {:already_registered, pid}} = error, _config, pid, _key), do: error

  defp claimed({:error, _reason} = error, config, pid, key) do
    config.backend.release(config, key, pid)
    error
  end

  @doc """
  Removes the name `key` of the calling process. Always `:ok`. **Cost:** O(1).

  No read on this node that begins after it returned finds the name; the other nodes are told.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Unregister)
      iex> {:ok, _owner} = Foundation.Cluster.register(Docs.Cluster.Unregister, "key")
      iex> Foundation.Cluster.unregister(Docs.Cluster.Unregister, "key")
      :ok
      iex> Foundation.Cluster.lookup(Docs.Cluster.Unregister, "key")
      []
  """
  @doc since: "0.1.0"
  @spec unregister(cluster, key) :: :ok
  def unregister(cluster, key) do
    config = Config.fetch!(cluster)
    :ok = Registry.unregister(cluster, key)
    :ok = config.backend.release(config, key, self())
    Replicator.changed(config, {:name, key})
  end

  @doc """
  Replaces the caller's value under `key` by what `fun` makes of it, on all nodes.

  Returns `{new, old}`, or `:error` if the caller has no such name. The time of the registration
  stays, so the name is no easier to lose. **Cost:** O(1).

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Update)
      iex> {:ok, _owner} = Foundation.Cluster.register(Docs.Cluster.Update, "key", 1)
      iex> Foundation.Cluster.update_value(Docs.Cluster.Update, "key", &(&1 + 1))
      {2, 1}
  """
  @doc since: "0.1.0"
  @spec update_value(cluster, key, (value -> value)) :: {new :: value, old :: value} | :error
  def update_value(cluster, key, fun) when is_function(fun, 1) do
    config = Config.fetch!(cluster)

    case Registry.update_value(cluster, key, fn {stamp, value} -> {stamp, fun.(value)} end) do
      {{_stamp, new}, {_same, old}} ->
        Replicator.changed(config, {:name, key})
        {new, old}

      :error ->
        :error
    end
  end

  @doc """
  Returns `[{pid, value}]` of the process that has the name, or `[]`. **Cost:** O(1), in the caller,
  from the replica of this node.

  Never a dead process of this node. A process of another node is found until that node has
  reported its death, usually within milliseconds.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Lookup)
      iex> Foundation.Cluster.lookup(Docs.Cluster.Lookup, "key")
      []
  """
  @doc since: "0.1.0"
  @spec lookup(cluster, key) :: [{pid, value}]
  def lookup(cluster, key) when is_atom(cluster) do
    case Native.registry_lookup(cluster, key) do
      [{pid, {_stamp, value}}] -> [{pid, value}]
      [] -> []
      nil -> for {pid, {_stamp, value}} <- ETS.lookup(table!(cluster), key), do: {pid, value}
    end
  end

  def lookup(cluster, _key), do: Config.unknown!(cluster)

  # The ETS engine's table has the cluster's name, if there is such a cluster.
  defp table!(cluster), do: Config.fetch!(cluster).name

  @doc """
  Returns `{:ok, pid, value}`, `:error` if no node has the name, or `{:error, {:unknown, reason}}`.

  The reason is `:syncing` while this node may lack names of another one, and `:draining` after
  `drain/1`. A caller that starts a process for a missing name must not take that for "missing".
  **Cost:** O(1), in the caller.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Fetch)
      iex> {:ok, _owner} = Foundation.Cluster.register(Docs.Cluster.Fetch, "key", 1)
      iex> Foundation.Cluster.fetch(Docs.Cluster.Fetch, "key")
      {:ok, self(), 1}
  """
  @doc since: "0.1.0"
  @spec fetch(cluster, key) ::
          {:ok, pid, value} | :error | {:error, {:unknown, :syncing | :draining}}
  def fetch(cluster, key) do
    # Before the lookup: names that arrive in between are found by it.
    state = Config.state(Config.fetch!(cluster))

    case {lookup(cluster, key), state} do
      {[{pid, value}], _state} -> {:ok, pid, value}
      {[], :up} -> :error
      {[], reason} -> {:error, {:unknown, reason}}
    end
  end

  @doc """
  Returns the process that has a name started for it on its home node, once for each key.

  If the replica of this node has the name, that is the result. Otherwise the key's `home/2` calls
  `apply(module, function, arguments)`, which returns `{:ok, pid}` of a process of that node, and
  registers the process. Concurrent callers on all nodes get the same process while the membership
  is stable. A raise is raised in the caller whose function it was; the others get
  `{:error, reason}`.

  #{Options.docs(@ensure_schema)}

  **Cost:** O(1) if the name is here, else one round trip to the home node. A node that is syncing
  waits first; after `:timeout` the result is `{:error, {:unknown, :syncing}}`. If every member
  drains it is `{:error, :draining}`.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Ensure)
      iex> start = {Agent, :start, [fn -> 0 end]}
      iex> {:ok, pid} = Foundation.Cluster.ensure(Docs.Cluster.Ensure, "key", start)
      iex> {:ok, ^pid} = Foundation.Cluster.ensure(Docs.Cluster.Ensure, "key", start)
      iex> Agent.stop(pid)
      :ok
  """
  @doc since: "0.1.0"
  @spec ensure(cluster, key, {module, atom, [term]}, timeout: non_neg_integer, value: value) ::
          {:ok, pid} | {:error, term}
  def ensure(cluster, key, {module, function, arguments} = mfa, options \\ [])
      when is_atom(module) and is_atom(function) and is_list(arguments) do
    config = Config.fetch!(cluster)
    options = Options.validate!(options, @ensure_schema, "Foundation.Cluster.ensure/4")

    case lookup(cluster, key) do
      [{pid, _value}] ->
        {:ok, pid}

      [] ->
        with {:raised, kind, reason, stacktrace} <-
               Ensure.ask(config, key, mfa, options[:value], options[:timeout]),
             do: :erlang.raise(kind, reason, stacktrace)
    end
  end

  @doc """
  Returns the member of the cluster where `ensure/4` starts the key's process. **Cost:** O(members).

  Every node that knows the same members gives the same answer. A member that drains is nobody's
  home; if all drain it is this node.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Home)
      iex> Foundation.Cluster.home(Docs.Cluster.Home, "key") == node()
      true
  """
  @doc since: "0.1.0"
  @spec home(cluster, key) :: node
  def home(cluster, key),
    do: cluster |> Config.fetch!() |> Ensure.homes(key) |> List.first(node())

  ## Via

  @doc false
  def whereis_name({cluster, key}) when is_atom(cluster) do
    case Native.registry_whereis(cluster, key) do
      nil -> ETS.whereis(table!(cluster), key)
      found -> found
    end
  end

  def whereis_name({cluster, key, _value}), do: whereis_name({cluster, key})
  def whereis_name({cluster, _key}), do: Config.unknown!(cluster)

  @doc false
  def register_name({cluster, key}, pid), do: register_name({cluster, key, nil}, pid)

  def register_name({cluster, key, value}, pid) when pid == self() do
    case register(cluster, key, value) do
      {:ok, _owner} -> :yes
      {:error, _reason} -> :no
    end
  end

  @doc false
  def unregister_name({cluster, key}), do: unregister(cluster, key)
  def unregister_name({cluster, key, _value}), do: unregister(cluster, key)

  @doc false
  def send(name, message) do
    case whereis_name(name) do
      :undefined -> :erlang.error(:badarg, [name, message])
      pid -> Kernel.send(pid, message)
    end
  end

  ## Groups

  @doc """
  Makes the calling process a member of `group`, with a value; joining again replaces the value.

  Returns `:ok`. `members/2` on this node sees it at once, the other nodes are told. **Cost:** O(own
  entries of the group). Between the removal of the old value and the new one a reader may miss the
  member.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Join)
      iex> Foundation.Cluster.join(Docs.Cluster.Join, :workers, 1)
      :ok
      iex> Foundation.Cluster.members(Docs.Cluster.Join, :workers)
      [{self(), 1}]
  """
  @doc since: "0.1.0"
  @spec join(cluster, group, value) :: :ok
  def join(cluster, group, value \\ nil) do
    config = Config.fetch!(cluster)

    case Registry.values(config.groups, group, self()) do
      [same] when same === value ->
        :ok

      old ->
        if old != [], do: Registry.unregister(config.groups, group)
        {:ok, _owner} = Registry.register(config.groups, group, value)
        Replicator.changed(config, {:member, group, self()})
    end
  end

  @doc """
  Ends the calling process's membership of `group`. Always `:ok`. **Cost:** O(1).

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Leave)
      iex> Foundation.Cluster.leave(Docs.Cluster.Leave, :workers)
      :ok
  """
  @doc since: "0.1.0"
  @spec leave(cluster, group) :: :ok
  def leave(cluster, group) do
    config = Config.fetch!(cluster)
    :ok = Registry.unregister(config.groups, group)
    Replicator.changed(config, {:member, group, self()})
  end

  @doc """
  Returns `{pid, value}` of the members of `group` on all nodes. **Cost:** O(members), in the
  caller, from the replica of this node.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Members)
      iex> Foundation.Cluster.members(Docs.Cluster.Members, :workers)
      []
  """
  @doc since: "0.1.0"
  @spec members(cluster, group) :: [{pid, value}]
  def members(cluster, group), do: Registry.lookup(Config.fetch!(cluster).groups, group)

  @doc """
  Sends `message` to all members of `group`. Returns `:ok`.

  **Cost:** O(members on this node) and one message to each other node, which sends it to its own
  members. Messages of one caller arrive in order. At most once: a node that is not connected, or
  whose part of the cluster is being restarted, misses it.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Broadcast)
      iex> Foundation.Cluster.join(Docs.Cluster.Broadcast, :workers)
      iex> Foundation.Cluster.broadcast(Docs.Cluster.Broadcast, :workers, :hello)
      iex> receive do: (message -> message)
      :hello
  """
  @doc since: "0.1.0"
  @spec broadcast(cluster, group, message :: term) :: :ok
  def broadcast(cluster, group, message) do
    config = Config.fetch!(cluster)
    {members, _homes} = Replicator.members(config)
    Fanout.broadcast(config, members, group, message)
  end

  ## The whole

  @doc """
  Returns the nodes that are members of the cluster, sorted. **Cost:** O(members).

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Nodes)
      iex> Foundation.Cluster.nodes(Docs.Cluster.Nodes)
      [node()]
  """
  @doc since: "0.1.0"
  @spec nodes(cluster) :: [node]
  def nodes(cluster) do
    {members, _homes} = cluster |> Config.fetch!() |> Replicator.members()
    members
  end

  @doc """
  Returns the number of names that this node knows. **Cost:** O(1); may run behind deaths.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Count)
      iex> Foundation.Cluster.count(Docs.Cluster.Count)
      0
  """
  @doc since: "0.1.0"
  @spec count(cluster) :: non_neg_integer
  def count(cluster), do: Registry.count(Config.fetch!(cluster).name)

  @doc """
  Returns all names that this node knows as a lazy enumerable of `{key, pid, value}`.

  **Cost:** O(names used), by chunks, as `Foundation.Registry.stream/1`.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Stream)
      iex> {:ok, _owner} = Foundation.Cluster.register(Docs.Cluster.Stream, "key", 1)
      iex> Enum.to_list(Foundation.Cluster.stream(Docs.Cluster.Stream))
      [{"key", self(), 1}]
  """
  @doc since: "0.1.0"
  @spec stream(cluster) :: Enumerable.t()
  def stream(cluster) do
    Stream.map(Registry.stream(Config.fetch!(cluster).name), fn {key, pid, {_stamp, value}} ->
      {key, pid, value}
    end)
  end

  @doc """
  Returns figures of the cluster as this node knows it.

    * `:engine` - `:pg`, `:global` or `:syn`
    * `:names` - names, of all nodes
    * `:groups` - groups that have members
    * `:nodes` - members of the cluster, this node included
    * `:conflicts` - registrations of this node that have lost a conflict
    * `:state` - `:up`, `:syncing` or `:draining`

  **Cost:** O(1) in the native engine, O(members of groups) in the ETS engine.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Info)
      iex> %{engine: :pg, names: 0, groups: 0, conflicts: 0} = Foundation.Cluster.info(Docs.Cluster.Info)
  """
  @doc since: "0.1.0"
  @spec info(cluster) :: %{
          engine: :pg | :global | :syn,
          names: non_neg_integer,
          groups: non_neg_integer,
          nodes: pos_integer,
          conflicts: non_neg_integer,
          state: :up | :syncing | :draining
        }
  def info(cluster) do
    config = Config.fetch!(cluster)

    %{
      engine: Config.engine(config),
      names: Registry.count(config.name),
      groups: Registry.info(config.groups).keys,
      nodes: length(nodes(cluster)),
      conflicts: Config.conflicts(config),
      state: Config.state(config)
    }
  end

  @doc """
  Prepares this node for its end: from now on it registers nothing and is nobody's home.

  Waits until no process of this node has a name, or `:drain_ms` is over, and returns `:ok`. Names
  stay until their processes end, and the state stays `:draining` until the cluster is stopped.
  **Cost:** O(names) for each look at what is left.

      iex> {:ok, _} = Foundation.Cluster.start_link(name: Docs.Cluster.Drain)
      iex> Foundation.Cluster.drain(Docs.Cluster.Drain)
      :ok
      iex> Foundation.Cluster.register(Docs.Cluster.Drain, "key")
      {:error, :draining}
  """
  @doc since: "0.1.0"
  @spec drain(cluster) :: :ok
  def drain(cluster) do
    config = Config.fetch!(cluster)
    deadline = System.monotonic_time(:millisecond) + config.drain_ms
    :ok = Replicator.call(config, :drain)
    await_drained(config, deadline)
  end

  @drain_poll_ms 20

  defp await_drained(config, deadline) do
    if Replica.local_name?(config) and System.monotonic_time(:millisecond) < deadline do
      Process.sleep(@drain_poll_ms)
      await_drained(config, deadline)
    else
      :ok
    end
  end
end
