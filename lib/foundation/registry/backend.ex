defmodule Foundation.Registry.Backend do
  @moduledoc false
  # The contract of a registry engine. `Foundation.Registry` calls the stubs of `Foundation.Native`
  # itself where a nanosecond counts (`register`, `unregister`, `lookup`, `whereis`, `values`,
  # `count`, `meta`, `put_meta`), and falls through to the ETS engine. For everything else it calls
  # `of!/1` once, and then these callbacks. A function that is only called the first way is not a
  # callback.
  #
  # Every callback raises `ArgumentError` if the registry does not exist. None returns an entry
  # whose process was dead when the call looked.

  alias Foundation.Native
  alias Foundation.Registry.Backends
  alias Foundation.Registry.Options

  @type name :: atom
  @type key :: term
  @type value :: term
  @type id :: integer
  @type notify :: {:notify, [atom]}

  @doc """
  Creates the table, or adopts the one that lost its owner. The caller becomes the owner.

  `{:replaced, kind}` means that a table of another kind had this name, and was destroyed.
  """
  @callback start(Options.t()) ::
              {:ok, :created | :adopted | {:replaced, Options.kind()}, owner_state :: term}
              | {:error, term}

  @doc "Destroys the table. Called by its owner, in an orderly stop."
  @callback stop(name, owner_state :: term) :: :ok

  @doc "What the table is. O(1)."
  @callback config(name) :: {Options.kind(), pos_integer, [atom], owner :: pid}

  @doc """
  Adds an entry of `pid`, atomically. It replaces a dead owner's unique entry. O(log n) or better.
  """
  @callback register(name, pid, key, value) ::
              {:ok, pid}
              | {:notify, pid, [atom]}
              | {:error, {:already_registered, pid} | :not_alive | :system_limit}

  @doc """
  Removes the entries that `pid` has under `key`. The cost is proportional to those entries; in the
  ETS engine it is one pass over all entries of the key.
  """
  @callback unregister(name, pid, key) :: :ok | notify

  @doc "The entries under each of `keys`, in the order of their registration. O(those entries)."
  @callback lookup_many(name, [key]) :: [[{pid, value}]]

  @doc "The keys of `pid`, one an entry; none once it is dead. O(own entries)."
  @callback keys(name, pid) :: [key]

  @doc "The entries of `pid` under `key`, each with an id that `remove/4` takes."
  @callback entries(name, key, pid) :: [{id, value}]

  @doc "Removes entries by id; says how many it removed itself. Each is removed by one caller only."
  @callback remove(name, key, pid, [id]) :: non_neg_integer

  @doc """
  Sets the value of a unique entry of `pid`, if it is still `expected` (`===`). Atomic.

  Returns `:stale` if the value has changed, and `:error` if `pid` has no entry there.
  """
  @callback replace(name, key, pid, expected :: value, new :: value) ::
              :ok | :stale | :error | :duplicate

  @doc """
  Sets the caller's unique value to the result of `callback`, which runs once. The result replaces
  anything that other processes wrote meanwhile. Returns `:error` if the caller has no entry, or has
  none after the callback.
  """
  @callback update_value(name, key, callback :: (value -> value)) ::
              {new :: value, old :: value} | :error | {:not_unique, Options.kind()}

  @doc "Size, distinct keys, registrants, bytes, refused registrations."
  @callback info(name) :: %{
              size: non_neg_integer,
              keys: non_neg_integer,
              processes: non_neg_integer,
              memory: non_neg_integer,
              drops: non_neg_integer
            }

  @doc "All entries, lazily, as lists of a bounded length. What stays throughout appears once."
  @callback chunks(name) :: Enumerable.t()

  @doc "The entries under `key`, in the order of their registration, lazily, as lists."
  @callback key_chunks(name, key) :: Enumerable.t()

  @doc "The entries under `key` whose value matches. O(entries under the key)."
  @callback match(name, key, pattern :: term, guards :: [term]) :: [{pid, value}]

  @doc "How many `c:match/4` returns."
  @callback count_match(name, key, pattern :: term, guards :: [term]) :: non_neg_integer

  @doc """
  Runs a match specification over the entries, and returns its results. O(entries), or O(entries of
  the keys) if each part binds its key. `function` names the caller in an error.
  """
  @callback select(name, spec :: [term], function :: String.t()) :: [term]

  @doc "For how many entries a match specification returns `true`; costs what `c:select/3` does."
  @callback count_select(name, spec :: [term], function :: String.t()) :: non_neg_integer

  @doc "Sends `message` once for each entry under `key`; how many were sent."
  @callback broadcast(name, key, message :: term) :: non_neg_integer

  @doc "Sets or removes metadata. O(1)."
  @callback delete_meta(name, term) :: :ok

  @doc """
  Returns the backend that has `registry`. Raises if none has it.
  """
  @spec of!(term) :: module
  def of!(registry) when is_atom(registry) do
    if Native.registry_groups(registry) == nil do
      # This raises if the registry does not exist.
      Backends.ETS.config(registry)
      Backends.ETS
    else
      Backends.Native
    end
  end

  def of!(other), do: unknown!(other)

  @doc """
  Returns the backend of an engine.
  """
  @spec of_engine(Foundation.Engine.t()) :: module
  def of_engine(:native), do: Backends.Native
  def of_engine(:ets), do: Backends.ETS

  @doc """
  Returns whether an entry of `pid` may be returned. For a remote process its monitor decides.

  It is a macro because each read calls it once per entry, where a call would cost as much as the
  check.
  """
  defmacro alive?(pid) do
    quote do
      node(unquote(pid)) != node() or :erlang.is_process_alive(unquote(pid))
    end
  end

  @doc """
  Raises what Elixir's `Registry` raises for a registry that is not there.

  If Elixir's `Registry` has one of this name, the message says so: half of a migration is missing.
  """
  @spec unknown!(term) :: no_return
  def unknown!(registry) do
    raise ArgumentError, "unknown registry: #{inspect(registry)}" <> started_elsewhere(registry)
  end

  defp started_elsewhere(registry) do
    _size = Elixir.Registry.count(registry)

    ". Elixir's Registry has started a registry of this name: " <>
      "add `alias Foundation.Registry` to the file that starts it"
  rescue
    # Elixir's Registry raises one of several errors for a name that is not one of its registries.
    _not_its_registry -> ""
  end

  @doc """
  Raises what Elixir's `Registry.meta/2` raises for a registry that is not there.
  """
  @spec unknown_meta!(term) :: no_return
  def unknown_meta!(registry) do
    raise ArgumentError,
          "unknown registry: #{inspect(registry)}. Either the registry name is invalid or " <>
            "the registry is not running, possibly because its application isn't started"
  end
end
