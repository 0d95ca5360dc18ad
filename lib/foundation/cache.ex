defmodule Foundation.Cache do
  @external_resource Path.join(__DIR__, "cache/moduledoc.md")
  @moduledoc File.read!(Path.join(__DIR__, "cache/moduledoc.md"))

  alias Foundation.Cache.{Config, Engines, Instance, Invalidator, Loading}
  alias Foundation.Options

  @type cache :: atom
  @type key :: term
  @type value :: term
  @type loaded :: {:ok, value} | {:ok, value, keyword} | {:error, reason :: term}
  @type loader :: (() -> loaded) | (key -> loaded)

  @doc """
  Starts a cache, linked to the caller.

  Options:

  #{Options.docs(Config.schema())}

  Returns `{:error, {:already_started, pid}}` where the name is taken. Raises `ArgumentError` for an
  option that is unknown or of a wrong type, and for a cluster that has not been started.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.NewCache, max_bytes: 1_000_000)
      iex> Foundation.Cache.get(MyApp.NewCache, "key")
      nil
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options), do: options |> Config.validate!() |> Instance.start_link()

  @doc """
  Returns the child specification of a cache, whose id is its name.

      iex> Foundation.Cache.child_spec(name: MyApp.Cache, max_bytes: 1_000_000).id
      MyApp.Cache
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: Foundation.Resilience.Instance.child_spec(__MODULE__, options)

  @doc """
  Returns `{:ok, value}`, or `:error` where nothing is cached. Never loads.

  A stale value counts as a value, a kept error as none. **Cost:** O(1) and a copy of the value, in
  the caller.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Fetch2, max_bytes: 1_000_000)
      iex> Foundation.Cache.fetch(MyApp.Fetch2, "key")
      :error
      iex> Foundation.Cache.put(MyApp.Fetch2, "key", nil)
      iex> Foundation.Cache.fetch(MyApp.Fetch2, "key")
      {:ok, nil}
  """
  @doc since: "0.1.0"
  @spec fetch(cache, key) :: {:ok, value} | :error
  def fetch(cache, key), do: Engines.get(cache, key)

  @doc """
  Returns `{:ok, value}` from the cache, or loads it.

  `loader` runs in the caller, without an argument or with the key. It returns `{:ok, value}`,
  `{:ok, value, ttl: ms}` or `{:error, reason}`, which is the result of this function too. While it
  runs, other callers of the key wait for its result. If its process dies, the caller that has
  waited longest runs its own loader.

  A raise, a throw or an exit of the loader goes on in its caller. Those that waited get
  `{:error, %Foundation.Cache.LoadError{}}`. They get the same with the reason `:timeout` after
  `:load_timeout`.

  Options, for this call:

  #{Config.fetch_docs()}

  Raises `ArgumentError` if the loader fetches its own key, directly or by way of other keys, in its
  own process, and if it returns something else.

  **Cost:** O(1) and a copy of the value where it is cached.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Fetch, max_bytes: 1_000_000)
      iex> Foundation.Cache.fetch(MyApp.Fetch, 2, fn key -> {:ok, key * key} end)
      {:ok, 4}
      iex> Foundation.Cache.fetch(MyApp.Fetch, 2, fn -> raise "is not run" end)
      {:ok, 4}
      iex> Foundation.Cache.fetch(MyApp.Fetch, 3, fn -> {:error, :unavailable} end)
      {:error, :unavailable}
  """
  @doc since: "0.1.0"
  @spec fetch(cache, key, loader, keyword) :: {:ok, value} | {:error, term}
  def fetch(cache, key, loader, options \\ [])

  def fetch(cache, key, loader, options) when is_function(loader, 0) or is_function(loader, 1),
    do: Loading.fetch(cache, key, loader, Config.fetch!(options))

  def fetch(_cache, _key, loader, _options) do
    raise ArgumentError,
          "expected a loader to be a function of arity 0 or 1, got: #{inspect(loader)}"
  end

  @doc """
  Returns the value of a key, or `default` where nothing is cached. Never loads.

  It is otherwise as `fetch/2`.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Get, max_bytes: 1_000_000)
      iex> Foundation.Cache.get(MyApp.Get, "key", :none)
      :none
  """
  @doc since: "0.1.0"
  @spec get(cache, key, default) :: value | default when default: term
  def get(cache, key, default \\ nil) do
    case Engines.get(cache, key) do
      {:ok, value} -> value
      :error -> default
    end
  end

  @doc """
  Stores a value, and returns `:ok`.

  A load of the key that is under way does not replace it. A value that is larger than the whole
  cache is not stored; it is counted as rejected, and what was under the key goes.

  Options:

  #{Config.put_docs()}

  **Cost:** O(1) and a copy of the value; O(1) more for each entry that is evicted. With `:cluster`,
  a message to each connected node.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Put, max_bytes: 1_000_000)
      iex> Foundation.Cache.put(MyApp.Put, "key", 1, ttl: 60_000)
      :ok
      iex> Foundation.Cache.get(MyApp.Put, "key")
      1
  """
  @doc since: "0.1.0"
  @spec put(cache, key, value, keyword) :: :ok
  def put(cache, key, value, options \\ []) do
    given = Config.put!(options)
    config = Instance.config!(cache)
    settings = Map.merge(config, given)
    :ok = Engines.put(cache, key, value, settings.ttl, settings.stale)
    Invalidator.announce(config, {:delete, key})
  end

  @doc """
  Removes what is cached under a key, and returns `:ok`.

  No read that begins afterwards gets a value that was loaded before. A load that is under way
  returns its value to its callers and does not store it. **Cost:** O(1). With `:cluster`, a message
  to each connected node.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Delete, max_bytes: 1_000_000)
      iex> Foundation.Cache.put(MyApp.Delete, "key", 1)
      iex> Foundation.Cache.delete(MyApp.Delete, "key")
      :ok
      iex> Foundation.Cache.get(MyApp.Delete, "key")
      nil
  """
  @doc since: "0.1.0"
  @spec delete(cache, key) :: :ok
  def delete(cache, key) do
    config = Instance.config!(cache)
    :ok = Engines.delete(cache, key)
    Invalidator.announce(config, {:delete, key})
  end

  @doc """
  Removes everything, and returns `:ok`. Loads under way are treated as in `delete/2`.

  **Cost:** O(entries) in the ETS engine, where other writes wait. With `:cluster`, a message to
  each connected node.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Clear, max_bytes: 1_000_000)
      iex> Foundation.Cache.put(MyApp.Clear, "key", 1)
      iex> Foundation.Cache.clear(MyApp.Clear)
      :ok
      iex> Foundation.Cache.size(MyApp.Clear)
      0
  """
  @doc since: "0.1.0"
  @spec clear(cache) :: :ok
  def clear(cache) do
    config = Instance.config!(cache)
    :ok = Engines.clear(cache)
    Invalidator.announce(config, :clear)
  end

  @doc """
  Returns the number of entries. **Cost:** O(1).

  Kept errors count, and so do expired entries that nothing has met yet.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Size, max_bytes: 1_000_000)
      iex> Foundation.Cache.put(MyApp.Size, "key", 1)
      iex> Foundation.Cache.size(MyApp.Size)
      1
  """
  @doc since: "0.1.0"
  @spec size(cache) :: non_neg_integer
  def size(cache), do: Engines.size(cache)

  @doc """
  Returns a lazy stream of `{key, value}`, in no order.

  Kept errors and expired values are left out. A key that is cached throughout appears exactly once;
  one that comes or goes meanwhile, at most once. Counts no hits. **Cost:** O(entries used), with a
  chunk of them in memory.

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Stream, max_bytes: 1_000_000)
      iex> for n <- 1..3, do: Foundation.Cache.put(MyApp.Stream, n, n * n)
      iex> MyApp.Stream |> Foundation.Cache.stream() |> Enum.sort()
      [{1, 1}, {2, 4}, {3, 9}]
  """
  @doc since: "0.1.0"
  @spec stream(cache) :: Enumerable.t()
  def stream(cache) do
    Instance.config!(cache)

    Stream.resource(
      fn -> 0 end,
      fn
        :done -> {:halt, :done}
        cursor -> Engines.walk(cache, cursor)
      end,
      fn _cursor -> :ok end
    )
  end

  @doc """
  Returns the counts of a cache.

    * `:hits`, `:misses` - reads: each `get/3`, `fetch/2` and `fetch/4` is one of the two. A fetch
      that loads or waits for a load is a miss.
    * `:stale_hits` - the hits that got a stale value.
    * `:loads` - loaders that ended.
    * `:load_errors` - the loads that returned an error, raised, threw or exited.
    * `:evicted` - entries that made room for others.
    * `:expired` - entries that were removed because their time was over.
    * `:rejected` - values that were larger than the whole cache.
    * `:entries` - as `size/1`.
    * `:bytes` - what the entries take, keys and overhead included.

  **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.Cache.start_link(name: MyApp.Stats, max_bytes: 1_000_000)
      iex> Foundation.Cache.fetch(MyApp.Stats, "key", fn -> {:ok, 1} end)
      iex> Foundation.Cache.get(MyApp.Stats, "key")
      iex> %{hits: 1, misses: 1, loads: 1, entries: 1} = Foundation.Cache.stats(MyApp.Stats)
  """
  @doc since: "0.1.0"
  @spec stats(cache) :: %{
          hits: non_neg_integer,
          misses: non_neg_integer,
          loads: non_neg_integer,
          load_errors: non_neg_integer,
          stale_hits: non_neg_integer,
          evicted: non_neg_integer,
          expired: non_neg_integer,
          rejected: non_neg_integer,
          entries: non_neg_integer,
          bytes: non_neg_integer
        }
  def stats(cache) do
    {hits, misses, loads, load_errors, stale_hits, evicted, expired, rejected, entries, bytes} =
      Engines.stats(cache)

    %{
      hits: hits,
      misses: misses,
      loads: loads,
      load_errors: load_errors,
      stale_hits: stale_hits,
      evicted: evicted,
      expired: expired,
      rejected: rejected,
      entries: entries,
      bytes: bytes
    }
  end
end
