defmodule Foundation.ConcurrentRegistry do
  alias Foundation.ConcurrentTable.{Backends, Named, Owner}
  alias Foundation.{Callback, Config, Engine, Native, Options}

  @backends [native: Backends.Native, ets: Backends.ETS]
  @schema [
    engine: [
      type: {:in, Keyword.keys(@backends)},
      default: nil,
      doc:
        "What holds the table. By default the engine of the application, `Foundation.engine/0`."
    ]
  ]
  @start_schema [
    name: [
      type: :atom,
      required: true,
      doc: "The name of the table. Its owner is registered under it."
    ],
    engine: @schema[:engine],
    adopt_timeout: [
      type: Options.time(0),
      default: nil,
      doc:
        "How many milliseconds the table waits for another owner after a crash. By default as " <>
          "long as a registry, `config :foundation, registry: [adopt_timeout: 60_000]`."
    ]
  ]

  @moduledoc """
  A concurrent table from keys to values that any number of processes read and write at once.

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.put(table, :visits, 1)
      :ok
      iex> Foundation.ConcurrentRegistry.update(table, :visits, 1, &(&1 + 1))
      2
      iex> Foundation.ConcurrentRegistry.get(table, :visits)
      2

  It knows nothing of processes: an entry stays when the process that put it there ends. For a name
  that belongs to a process there is `Foundation.Registry`; for state that outlives the node,
  `Foundation.StateManager`.

  ## Named tables

  A table with a name belongs to a supervision tree:

      children = [{Foundation.ConcurrentRegistry, name: MyApp.Prices}]

  Every function takes the name in place of the table, and `start_link/1` starts one:

      iex> {:ok, _owner} = Foundation.ConcurrentRegistry.start_link(name: Docs.Prices)
      iex> Foundation.ConcurrentRegistry.put(Docs.Prices, "tea", 3)
      :ok
      iex> Foundation.ConcurrentRegistry.get(Docs.Prices, "tea")
      3

  The process that `start_link/1` returns is the table's owner, and does nothing else. A stop with
  `:normal`, `:shutdown` or `{:shutdown, _}` ends the table. When the owner is killed or crashes,
  the table stays readable and writable, and the owner that the supervisor starts next adopts its
  entries. Without a new owner in time the table is destroyed. A new owner with another `:engine`
  starts with an empty table and logs a warning. Every function raises `ArgumentError` for a name
  that no table has.

  ## Tables without a name

  A table of `new/1` belongs to the process that called it and goes when that process ends, as an
  ETS table does. Any process may use it, and every function raises `ArgumentError` once the table
  is gone.

  ## Consistency

  Keys compare by `===`: `1` and `1.0` are two keys. Each function but `stream/1` is atomic, and
  what it wrote is seen by every read that begins after it returned, in any process. Values are
  copied in and out, as messages are; binaries of more than 64 bytes are shared
  among readers. The native engine copies those of up to 8 kB once, when they are stored.

  ## Bounds

  None on entries: a table holds what is put into it, and `size/1` says how much that is.

  ## Telemetry events

  None: an event would cost more than the call.
  """

  @enforce_keys [:backend, :table]
  defstruct [:backend, :table]

  @opaque t :: %__MODULE__{backend: module, table: term}
  @typedoc "A table, or the name of one."
  @type table :: t | atom
  @type key :: term
  @type value :: term

  @doc """
  Returns a new, empty table that belongs to the caller.

  Options:

  #{Options.docs(@schema)}

  Raises `ArgumentError` for any other option, and for `:native` where no library is loaded.

      iex> Foundation.ConcurrentRegistry.size(Foundation.ConcurrentRegistry.new())
      0
  """
  @doc since: "0.1.0"
  @spec new(keyword) :: t
  def new(options \\ []) do
    options = Options.validate!(options, @schema, "the options of Foundation.ConcurrentRegistry")
    backend = Keyword.fetch!(@backends, options[:engine] || Engine.selected())
    %__MODULE__{backend: backend, table: backend.new()}
  end

  @doc """
  Starts a named table; returns `{:ok, owner}`, the process that stands for it.

  Returns `{:error, {:already_started, pid}}` where the name is taken. After a crash of the last
  owner the new one adopts its table: see [Named tables](#module-named-tables). **Cost:** O(1).
  Usually done by a supervisor: `{Foundation.ConcurrentRegistry, name: MyApp.Prices}`.

  Options:

  #{Options.docs(@start_schema)}

  Raises `ArgumentError` for any other option, and for `:native` where no library is loaded.

      iex> {:ok, owner} = Foundation.ConcurrentRegistry.start_link(name: Docs.Table)
      iex> owner == Process.whereis(Docs.Table)
      true
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    place = "the options of Foundation.ConcurrentRegistry.start_link/1"
    options = Options.validate!(options, @start_schema, place)
    engine = options[:engine] || Engine.selected()

    if engine == :native and Native.library_version() == nil,
      do: raise(ArgumentError, "expected :engine to be :ets, because no native library is loaded")

    Owner.start_link(%Named.Options{
      name: options[:name],
      kind: engine,
      backend: Keyword.fetch!(@backends, engine),
      adopt_timeout: options[:adopt_timeout] || Config.get(:registry)[:adopt_timeout]
    })
  end

  @doc """
  Returns the child specification of a named table; its id is the table's name. **Cost:** O(1).

      iex> Foundation.ConcurrentRegistry.child_spec(name: Docs.Child).id
      Docs.Child
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: Keyword.get(options, :name, __MODULE__),
      start: {__MODULE__, :start_link, [options]},
      type: :worker
    }
  end

  @doc """
  Sets `key` to `value`, whether it was there or not, and returns `:ok`. **Cost:** O(1) and a copy
  of both.

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.put(table, "key", :value)
      :ok
  """
  @doc since: "0.1.0"
  @spec put(table, key, value) :: :ok
  def put(%__MODULE__{} = registry, key, value) do
    registry.backend.put(registry.table, key, value)
  end

  def put(name, key, value), do: Named.on(name, &put(&1, key, value))

  @doc """
  Sets `key` to `value` if it is not there, and returns whether it did. Of callers that race for a
  key, exactly one gets `true`. **Cost:** O(1).

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.put_new(table, :key, 1)
      true
      iex> Foundation.ConcurrentRegistry.put_new(table, :key, 2)
      false
      iex> Foundation.ConcurrentRegistry.get(table, :key)
      1
  """
  @doc since: "0.1.0"
  @spec put_new(table, key, value) :: boolean
  def put_new(%__MODULE__{} = registry, key, value) do
    registry.backend.put_new(registry.table, key, value)
  end

  def put_new(name, key, value), do: Named.on(name, &put_new(&1, key, value))

  @doc """
  Returns the value of `key`, or `default` if there is none. **Cost:** O(1) and a copy of the
  value; waits for no other caller.

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.get(table, :key)
      nil
      iex> Foundation.ConcurrentRegistry.get(table, :key, 0)
      0
  """
  @doc since: "0.1.0"
  @spec get(table, key, default) :: value | default when default: term
  def get(table, key, default \\ nil)

  def get(%__MODULE__{} = registry, key, default) do
    registry.backend.get(registry.table, key, default)
  end

  def get(name, key, default), do: Named.on(name, &get(&1, key, default))

  @doc """
  Sets `key` to what `fun` makes of its value, and returns that. A key that is not there is set to
  `default` as it is, as `Map.update/4` does.

  The update is atomic: the result of `fun` replaces exactly the value that `fun` got, so no
  concurrent update is lost. `fun` runs in the caller, without a lock. If it is slow, raises or
  never returns, it changes nothing and blocks no other process. When another write of the same
  key comes between, `fun` runs again. It should have no side effects, and be short for a
  contended key.

  **Cost:** O(1) besides `fun`. In the ETS engine it is O(size of the table) for a key with the
  atom `:_`, or with an atom whose name begins with `$`.

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.update(table, :key, 1, &(&1 + 10))
      1
      iex> Foundation.ConcurrentRegistry.update(table, :key, 1, &(&1 + 10))
      11
  """
  @doc since: "0.1.0"
  @spec update(table, key, default :: value, (value -> value)) :: value
  def update(%__MODULE__{} = registry, key, default, fun) when is_function(fun, 1) do
    case update_once(registry.backend, registry.table, key, default, fun) do
      {:ok, value} -> value
      :again -> update(registry, key, default, fun)
    end
  end

  def update(name, key, default, fun) when is_function(fun, 1),
    do: Named.on(name, &update(&1, key, default, fun))

  def update(_table, _key, _default, other), do: Callback.refuse!(other, 1)

  # Optimistic, without a lock that a dying process could keep.
  defp update_once(backend, table, key, default, fun) do
    case backend.fetch(table, key) do
      {version, value} ->
        new = fun.(value)
        if backend.replace(table, key, version, new), do: {:ok, new}, else: :again

      :error ->
        if backend.put_new(table, key, default), do: {:ok, default}, else: :again
    end
  end

  @doc """
  Removes `key`, if it is there, and returns `:ok`. **Cost:** O(1).

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.delete(table, :key)
      :ok
  """
  @doc since: "0.1.0"
  @spec delete(table, key) :: :ok
  def delete(%__MODULE__{} = registry, key) do
    registry.backend.delete(registry.table, key)
  end

  def delete(name, key), do: Named.on(name, &delete(&1, key))

  @doc """
  Returns how many keys there are. **Cost:** O(1).

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> Foundation.ConcurrentRegistry.put(table, :key, 1)
      iex> Foundation.ConcurrentRegistry.size(table)
      1
  """
  @doc since: "0.1.0"
  @spec size(table) :: non_neg_integer
  def size(%__MODULE__{} = registry), do: registry.backend.size(registry.table)

  def size(name), do: Named.on(name, &size/1)

  @doc """
  Returns a lazy stream of `{key, value}` pairs, in no order.

  The table is read in chunks as the stream is consumed, and may be written meanwhile. A key that
  was there throughout appears exactly once, with a value that it had during the walk. A key that
  came or went meanwhile appears at most once. **Cost:** O(entries used), with a chunk of them in
  memory. Entries deleted during a walk are freed at its end, so consume or halt a stream instead
  of keeping it suspended.

      iex> table = Foundation.ConcurrentRegistry.new()
      iex> for n <- 1..3, do: Foundation.ConcurrentRegistry.put(table, n, n * n)
      iex> table |> Foundation.ConcurrentRegistry.stream() |> Enum.sort()
      [{1, 1}, {2, 4}, {3, 9}]
  """
  @doc since: "0.1.0"
  @spec stream(table) :: Enumerable.t()
  def stream(%__MODULE__{} = registry), do: registry.backend.stream(registry.table)

  def stream(name), do: Named.on(name, &stream/1)
end
