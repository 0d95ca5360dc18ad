defmodule Foundation.Cluster.Config do
  @moduledoc false
  # The options of a cluster, and the names of its tables and processes.
  #
  # It is kept as a persistent term, which every call reads without a copy. The cells are counters
  # that outlive each process of the cluster.

  alias Foundation.Cluster.Backends
  alias Foundation.{Engine, Options}

  @enforce_keys [:name, :backend, :on_conflict, :drain_ms, :tables]
  defstruct [
    :name,
    :backend,
    :on_conflict,
    :drain_ms,
    # The engine of the tables: `:native` or `:ets`.
    :tables,
    :groups,
    :scope,
    :replicator,
    :fanout,
    :ensure,
    :supervisor,
    :cells
  ]

  @type t :: %__MODULE__{}

  @conflicts 1
  @syncing 2
  @draining 3
  @backlog 4

  @backends [pg: Backends.Pg, global: Backends.Global, syn: Backends.Syn]

  @schema [
    name: [type: :atom, default: nil, doc: "The cluster's name, the same on all nodes. Required."],
    engine: [
      type: {:in, Keyword.keys(@backends)},
      default: :pg,
      doc: "Who decides which process gets a name. `:syn` needs the package of that name."
    ],
    on_conflict: [
      type: {:or, [{:in, [:notify, :exit]}, :mfa]},
      default: :notify,
      doc: """
      What happens to a process that loses its name to an older registration. It always gets
      `{:foundation_cluster, cluster, :conflict, key, winner}`; `:exit` then kills it, and
      `{module, function, arguments}` is called on its node with `cluster, key, loser, winner` put
      before the arguments.
      """
    ],
    drain_ms: [
      type: {:integer, 0..0xFFFF_FFFF},
      default: 5_000,
      doc: "How many milliseconds `drain/1` waits for the processes of this node."
    ]
  ]

  @doc "The options as a schema."
  @spec schema() :: Options.schema()
  def schema, do: @schema

  @doc "The options as a struct. Raises `ArgumentError` for what is missing, unknown or wrong."
  @spec validate!(keyword) :: t
  def validate!(options) do
    # For this library's own tests.
    {tables, options} = pop(options, :tables)
    options = Options.validate!(options, @schema, "Foundation.Cluster.start_link/1")
    name = options[:name] || raise ArgumentError, "expected :name option to be present"
    backend = Keyword.fetch!(@backends, options[:engine])
    with {:error, message} <- backend.available(), do: raise(ArgumentError, message)

    %__MODULE__{
      name: name,
      backend: backend,
      on_conflict: options[:on_conflict],
      drain_ms: options[:drain_ms],
      tables: tables || Engine.selected(),
      groups: Module.concat(name, Groups),
      scope: Module.concat(name, Scope),
      replicator: Module.concat(name, Replicator),
      fanout: Module.concat(name, Fanout),
      ensure: Module.concat(name, Ensure),
      supervisor: Module.concat(name, Supervisor)
    }
  end

  defp pop(options, key) do
    if Keyword.keyword?(options), do: Keyword.pop(options, key), else: {nil, options}
  end

  @doc "The name of the engine, as options spell it."
  @spec engine(t) :: :pg | :global | :syn
  def engine(config) do
    {engine, _backend} = List.keyfind(@backends, config.backend, 1)
    engine
  end

  @doc "Makes the cluster known; the counters of a predecessor that crashed go on."
  @spec publish(t) :: t
  def publish(config) do
    cells =
      case fetch(config.name) do
        {:ok, %{cells: cells}} -> cells
        :error -> :atomics.new(4, [])
      end

    config = %{config | cells: cells}
    :persistent_term.put({Foundation.Cluster, config.name}, config)
    config
  end

  @doc "Ends what `publish/1` began, in an orderly stop."
  @spec withdraw(t) :: :ok
  def withdraw(config) do
    :persistent_term.erase({Foundation.Cluster, config.name})
    :ok
  end

  @doc "The configuration of a cluster that has been started."
  @spec fetch(term) :: {:ok, t} | :error
  def fetch(name) do
    case :persistent_term.get({Foundation.Cluster, name}, nil) do
      nil -> :error
      config -> {:ok, config}
    end
  end

  @doc "As `fetch/1`; raises for a cluster that is not there."
  @spec fetch!(term) :: t
  def fetch!(name) do
    case :persistent_term.get({Foundation.Cluster, name}, nil) do
      nil -> unknown!(name)
      config -> config
    end
  end

  @doc "The names of all clusters of this node. O(persistent terms of the VM)."
  @spec names() :: [atom]
  def names, do: for({{Foundation.Cluster, name}, _config} <- :persistent_term.get(), do: name)

  @doc "Raises for a cluster that is not there."
  @spec unknown!(term) :: no_return
  def unknown!(name), do: raise(ArgumentError, "unknown cluster: #{inspect(name)}")

  ## Cells

  @doc "Counts a registration of this node that lost a conflict."
  @spec count_conflict(t) :: :ok
  def count_conflict(config), do: :atomics.add(config.cells, @conflicts, 1)

  @doc "How many registrations of this node have lost a conflict."
  @spec conflicts(t) :: non_neg_integer
  def conflicts(config), do: :atomics.get(config.cells, @conflicts)

  @doc "Whether this node may lack names of other nodes, and whether it drains."
  @spec state(t) :: :up | :syncing | :draining
  def state(config) do
    cond do
      draining?(config) -> :draining
      :atomics.get(config.cells, @syncing) == 1 -> :syncing
      true -> :up
    end
  end

  @doc "Sets whether this node may lack names of other nodes."
  @spec put_syncing(t, boolean) :: :ok
  def put_syncing(config, syncing?),
    do: :atomics.put(config.cells, @syncing, if(syncing?, do: 1, else: 0))

  @doc "Whether this node drains."
  @spec draining?(t) :: boolean
  def draining?(config), do: :atomics.get(config.cells, @draining) == 1

  @doc "From now on this node drains."
  @spec put_draining(t) :: :ok
  def put_draining(config), do: :atomics.put(config.cells, @draining, 1)

  @doc "Counts a change that the replicator has not announced yet, and says how many there are."
  @spec enter_backlog(t) :: integer
  def enter_backlog(config), do: :atomics.add_get(config.cells, @backlog, 1)

  @doc "The replicator has announced that many changes."
  @spec leave_backlog(t, non_neg_integer) :: :ok
  def leave_backlog(config, count), do: :atomics.sub(config.cells, @backlog, count)

  @doc "A new replicator has nothing in its mailbox."
  @spec reset_backlog(t) :: :ok
  def reset_backlog(config), do: :atomics.put(config.cells, @backlog, 0)
end
