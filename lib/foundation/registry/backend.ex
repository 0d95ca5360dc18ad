defmodule Foundation.Registry.Backend do
  @moduledoc false
  # What an engine of the registry does. `Foundation.Registry` calls the stubs of
  # `Foundation.Native` itself where a nanosecond counts (`register`, `unregister`,
  # `lookup`, `whereis`, `values`, `count`, `meta`, `put_meta`) and falls through to the ETS engine;
  # everything else asks `of!/1` once and goes through these callbacks. What is only ever called
  # the first way is no callback.
  #
  # All of them raise `ArgumentError` for a registry that is not there. None returns an
  # entry of a process that is dead when it looks.

  alias Foundation.Native
  alias Foundation.Registry.Backends
  alias Foundation.Registry.Options

  @type name :: atom
  @type key :: term
  @type value :: term
  @type id :: integer
  @type notify :: {:notify, [atom]}

  @doc """
  Creates the table, or takes over the one that lost its owner. The caller is the owner.

  `{:replaced, kind}`: there was one of another kind, which is gone.
  """
  @callback start(Options.t()) ::
              {:ok, :created | :adopted | {:replaced, Options.kind()}, owner_state :: term}
              | {:error, term}

  @doc "Destroys the table. Called by its owner, in an orderly stop."
  @callback stop(name, owner_state :: term) :: :ok

  @doc "What the table is. O(1)."
  @callback config(name) :: {Options.kind(), pos_integer, [atom], owner :: pid}

  @doc "Adds an entry of `pid`, atomically; a dead owner's unique entry gives way. O(log n) or better."
  @callback register(name, pid, key, value) ::
              {:ok, pid}
              | {:notify, pid, [atom]}
              | {:error, {:already_registered, pid} | :not_alive | :system_limit}

  @doc """
  Removes what `pid` has under `key`. Costs what it removes; in the ETS engine, one pass over the
  entries of the key.
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
  Sets the value of a unique entry of `pid`, if it still is `expected` (`===`). Atomic.

  `:stale`: it is another by now. `:error`: `pid` has no entry there.
  """
  @callback replace(name, key, pid, expected :: value, new :: value) ::
              :ok | :stale | :error | :duplicate

  @doc """
  Sets the caller's unique value to what `callback` returns for it; `:error` where it has none, or no
  longer. The callback runs once. What it returns replaces what others wrote meanwhile.
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
  What a match specification makes of the entries. O(entries), or O(those of the keys) where each part
  binds its key. `function` names the caller in an error.
  """
  @callback select(name, spec :: [term], function :: String.t()) :: [term]

  @doc "For how many entries a match specification returns `true`; costs what `c:select/3` does."
  @callback count_select(name, spec :: [term], function :: String.t()) :: non_neg_integer

  @doc "Sends `message` once for each entry under `key`; how many were sent."
  @callback broadcast(name, key, message :: term) :: non_neg_integer

  @doc "Sets or removes metadata. O(1)."
  @callback delete_meta(name, term) :: :ok

  @doc """
  The backend that has `registry`; raises where none does.
  """
  @spec of!(term) :: module
  def of!(registry) when is_atom(registry) do
    if Native.registry_groups(registry) == nil do
      # Raises for one that is not there either.
      Backends.ETS.config(registry)
      Backends.ETS
    else
      Backends.Native
    end
  end

  def of!(other), do: unknown!(other)

  @doc """
  The backend of a table's engine.
  """
  @spec of_engine(Foundation.Engine.t()) :: module
  def of_engine(:native), do: Backends.Native
  def of_engine(:ets), do: Backends.ETS

  @doc """
  Returns whether an entry of `pid` may be returned. For a remote process its monitor decides.

  A macro: it is used once for each entry of a read, where a call costs as much as the check.
  """
  defmacro alive?(pid) do
    quote do
      node(unquote(pid)) != node() or :erlang.is_process_alive(unquote(pid))
    end
  end

  @doc """
  Raises what Elixir's `Registry` raises for a registry that is not there.
  """
  @spec unknown!(term) :: no_return
  def unknown!(registry), do: raise(ArgumentError, "unknown registry: #{inspect(registry)}")

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
