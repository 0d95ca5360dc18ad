defmodule Soak.Cache do
  @moduledoc false
  # A cache in front of a source that changes, under readers that are killed while they load. Each
  # change of a key is followed by a delete. So a read that begins after the delete gets the new
  # value or a newer one. The cache loses its owner again and again, and its bound holds.

  @behaviour Soak.Area

  alias Foundation.Cache
  alias Foundation.Cache.LoadError
  alias Soak.{Crew, Epoch, Faults, Record}

  @cache Soak.Cache.Instance
  @restarts 1_000_000
  @keys 200
  @changers 2
  @max_bytes 60_000
  # Much longer than a load that is handed over.
  @load_timeout 60_000
  @largest 2_000

  @impl true
  def name, do: "cache"

  @impl true
  def invariants do
    [
      cache_fresh: "values of a cache older than a delete",
      cache_wait: "callers of a cache that waited in vain",
      cache_bound: "bytes of a cache beyond its bound"
    ]
  end

  @impl true
  def open(options) do
    Epoch.open([:cache])
    # The versions of the source, and those that were deleted from the cache.
    :persistent_term.put(__MODULE__, {:atomics.new(@keys, []), :atomics.new(@keys, [])})

    cache =
      {Cache,
       name: @cache,
       engine: options.engine,
       max_bytes: @max_bytes,
       ttl: 500,
       stale: 0,
       negative_ttl: 20,
       early: 1.0,
       load_timeout: @load_timeout}

    {:ok, _pid} =
      Supervisor.start_link([cache],
        strategy: :one_for_one,
        max_restarts: @restarts,
        max_seconds: 1
      )
  end

  @impl true
  def crew do
    [
      %{count: 4, init: & &1, step: &read/1, mortal?: true},
      %{count: @changers, init: & &1, step: &change/1}
    ]
  end

  @impl true
  def faults(_engine) do
    [
      {"cache's owner killed", 2, fn -> Faults.kill(@cache) end},
      {"reader or loader of a cache killed", 4, &kill_reader/0}
    ]
  end

  defp kill_reader do
    with pid when is_pid(pid) <- Crew.victim(__MODULE__), do: Process.exit(pid, :kill)
  end

  # Few keys are read often, so readers meet.
  defp key, do: min(:rand.uniform(@keys), :rand.uniform(@keys))

  defp read(index) do
    key = key()
    {source, deleted} = :persistent_term.get(__MODULE__)
    least = :atomics.get(deleted, key)

    Epoch.judge(:cache, fn _epoch ->
      answer =
        if :rand.uniform(3) == 1,
          do: Cache.fetch(@cache, key),
          else: Cache.fetch(@cache, key, fn -> load(source, key) end)

      judge(answer, key, least)
    end)

    {1, index}
  end

  defp load(source, key) do
    version = :atomics.get(source, key)
    if :rand.uniform(4) == 1, do: Process.sleep(1)

    case :rand.uniform(20) do
      1 -> {:error, :down}
      2 -> {:ok, {version, :binary.copy("x", 2 * @max_bytes)}}
      _ -> {:ok, {version, :binary.copy("x", :rand.uniform(@largest))}}
    end
  end

  defp judge({:ok, {version, _padding}}, key, least),
    do: Record.check!(:cache_fresh, version >= least, fn -> {key, version, :after, least} end)

  defp judge({:error, %LoadError{} = error}, key, _least),
    do: Record.check!(:cache_wait, false, fn -> {key, error} end)

  defp judge(_no_value, _key, _least), do: Record.check!(:cache_wait, true, fn -> nil end)

  # Each key is changed by one member: a put must not follow the delete of a newer value.
  defp change(index) do
    key = 2 * :rand.uniform(div(@keys, @changers)) - (index - 1)
    {source, deleted} = :persistent_term.get(__MODULE__)
    version = :atomics.add_get(source, key, 1)

    Epoch.judge(:cache, fn _epoch ->
      case :rand.uniform(50) do
        1 -> :ok = Cache.clear(@cache)
        2 -> :ok = Cache.put(@cache, key, {version, "put"})
        _ -> :ok = Cache.delete(@cache, key)
      end

      :atomics.put(deleted, key, version)
      bounded()
    end)

    {1, index}
  end

  @doc "Whether the owner has opened the cache again after a restart of the application."
  def open? do
    is_integer(Cache.size(@cache))
  rescue
    ArgumentError -> false
  end

  defp bounded do
    %{bytes: bytes} = Cache.stats(@cache)
    most = @max_bytes + @largest + 1_000
    Record.check!(:cache_bound, bytes <= most, fn -> {bytes, :of, most} end)
  end

  @impl true
  def audit do
    stats = Cache.stats(@cache)
    entries = for {key, _value} <- Cache.stream(@cache), do: key
    Record.check!(:cache_bound, stats.bytes <= @max_bytes, fn -> stats end)

    # Kept errors and expired entries are in no stream.
    Record.check!(:cache_bound, length(entries) <= stats.entries, fn ->
      {length(entries), stats}
    end)

    unique? = Enum.uniq(entries) == entries
    Record.check!(:cache_bound, unique?, fn -> entries end)
  end
end
