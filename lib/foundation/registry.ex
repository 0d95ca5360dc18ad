defmodule Foundation.Registry do
  @external_resource Path.join(__DIR__, "registry/moduledoc.md")
  @moduledoc File.read!(Path.join(__DIR__, "registry/moduledoc.md"))

  alias Foundation.{Native, Timeout}
  alias Foundation.Registry.Backends.ETS
  alias Foundation.Registry.{Backend, Dispatch, Ensure, Locks, MatchSpec, Options, Owner}

  @typedoc "The name of a registry."
  @type registry :: atom
  @typedoc "How many entries a key may have, and how `dispatch/4` groups them."
  @type keys :: :unique | :duplicate | {:duplicate, :key} | {:duplicate, :pid}
  @type key :: term
  @type value :: term
  @type meta_key :: atom | tuple
  @type meta_value :: term
  @typedoc "A pattern for a value, as in the head of a match specification."
  @type match_pattern :: atom | term
  @type guard :: atom | tuple
  @type guards :: [guard]
  @type body :: [term]
  @typedoc "A match specification over `{key, pid, value}`."
  @type spec :: [{match_pattern, guards, body}]
  @type start_option ::
          {:keys, keys}
          | {:name, registry}
          | {:partitions, pos_integer}
          | {:listeners, [atom]}
          | {:compressed, boolean}
          | {:meta, [{meta_key, meta_value}]}
  @typedoc "What listeners are sent."
  @type listener_message ::
          {:register, registry, key, pid, value} | {:unregister, registry, key, pid}
  @type dispatch_opts :: [parallel: boolean]

  @keys [:unique, :duplicate, {:duplicate, :key}, {:duplicate, :pid}]

  @doc """
  Starts a registry; returns `{:ok, owner}`, the process that stands for its table.

  `{:error, {:already_started, pid}}` where one of that name is running. After a crash of the last
  owner the new one adopts its table: see [Who owns a table](#module-who-owns-a-table). **Cost:**
  O(1). Usually done by a supervisor: `{Foundation.Registry, keys: :unique, name:
  MyApp.Registry}`.

    * `:keys` (required) - `:unique`, or `:duplicate` for any number of entries a key. `{:duplicate,
      :pid}` is `:duplicate`; with `{:duplicate, :key}` a key's entries are one group for
      `dispatch/4`
    * `:name` (required) - an atom
    * `:partitions` - into how many groups `dispatch/4` divides the entries. Default 1
    * `:listeners` - names of processes that are sent a `t:listener_message/0` for each
      `register/3` and `unregister/2`. A death sends them nothing; they can monitor processes
      themselves. Default: those of the table that is adopted, else none
    * `:meta` - a keyword list of what `meta/2` reads
    * `:compressed` - whether the ETS engine compresses entries. Default `false`

  Other options are ignored, as `Registry` ignores them. Raises `ArgumentError` where one of these
  has a value that it may not have.

      iex> {:ok, owner} = Foundation.Registry.start_link(keys: :unique, name: Docs.Start)
      iex> owner == Process.whereis(Docs.Start)
      true
  """
  @doc since: "0.1.0"
  @spec start_link([start_option]) :: {:ok, pid} | {:error, term}
  def start_link(options), do: options |> Options.validate!() |> Owner.start_link()

  @doc false
  @deprecated "Use Foundation.Registry.start_link/1 instead"
  def start_link(keys, name, options \\ []) when keys in @keys and is_atom(name),
    do: start_link([keys: keys, name: name] ++ options)

  @doc """
  Returns the child specification of a registry; its id is the registry's name. **Cost:** O(1).

      iex> Foundation.Registry.child_spec(keys: :unique, name: Docs.Child).id
      Docs.Child
  """
  @doc since: "0.1.0"
  @spec child_spec([start_option]) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: Keyword.get(options, :name, Foundation.Registry),
      start: {Foundation.Registry, :start_link, [options]},
      type: :supervisor
    }
  end

  ## Via

  @doc false
  def whereis_name({registry, key}), do: whereis(registry, key)
  def whereis_name({registry, key, _value}), do: whereis(registry, key)

  defp whereis(registry, key) when is_atom(registry) do
    with :duplicate <- find(registry, key),
         do: raise(ArgumentError, ":via is not supported for duplicate registries")
  end

  defp whereis(registry, _key), do: Backend.unknown!(registry)

  defp find(registry, key),
    do: Native.registry_whereis(registry, key) || ETS.whereis(registry, key)

  @doc false
  def register_name({registry, key}, pid), do: register_name(registry, key, nil, pid)
  def register_name({registry, key, value}, pid), do: register_name(registry, key, value, pid)

  defp register_name(registry, key, value, pid) when pid == self() do
    case register(registry, key, value) do
      {:ok, _owner} -> :yes
      {:error, _reason} -> :no
    end
  end

  @doc false
  def send({registry, key}, message) do
    case lookup(registry, key) do
      [{pid, _value}] -> Kernel.send(pid, message)
      [] -> :erlang.error(:badarg, [{registry, key}, message])
    end
  end

  def send({registry, key, _value}, message), do: __MODULE__.send({registry, key}, message)

  @doc false
  def unregister_name({registry, key}), do: unregister(registry, key)
  def unregister_name({registry, key, _value}), do: unregister(registry, key)

  ## Registering

  @doc """
  Registers the calling process under `key`, with a value.

  Returns `{:ok, owner}` or, where keys are unique and another process that is alive, or the
  caller itself, has this one, `{:error, {:already_registered, pid}}`. **Cost:** O(1). Raises
  `SystemLimitError` when the table is full.

      iex> {:ok, owner} = Foundation.Registry.start_link(keys: :unique, name: Docs.Register)
      iex> {:ok, ^owner} = Foundation.Registry.register(Docs.Register, "key", :value)
      iex> Foundation.Registry.register(Docs.Register, "key", :value)
      {:error, {:already_registered, self()}}
  """
  @doc since: "0.1.0"
  @spec register(registry, key, value) :: {:ok, pid} | {:error, {:already_registered, pid}}
  def register(registry, key, value) when is_atom(registry) do
    case Native.registry_register(registry, key, value) do
      {:ok, _owner} = registered -> registered
      nil -> registered(ETS.register(registry, self(), key, value), registry, self(), key, value)
      other -> registered(other, registry, self(), key, value)
    end
  end

  @doc """
  Registers another process, which may be on another node, as `register/3` would if it called.

  Returns `{:error, :not_alive}` for one that is dead or on a node that cannot be reached.
  **Cost:** O(1); for a remote process one message there and back.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.RegisterFor)
      iex> {:ok, agent} = Agent.start_link(fn -> 0 end)
      iex> {:ok, _} = Foundation.Registry.register_for(Docs.RegisterFor, agent, "key", 1)
      iex> Foundation.Registry.lookup(Docs.RegisterFor, "key") == [{agent, 1}]
      true
  """
  @doc since: "0.1.0"
  @spec register_for(registry, pid, key, value) ::
          {:ok, pid} | {:error, {:already_registered, pid} | :not_alive}
  def register_for(registry, pid, key, value) when is_atom(registry) and is_pid(pid) do
    backend = Backend.of!(registry)

    if node(pid) == node() or alive_there?(pid),
      do: registered(backend.register(registry, pid, key, value), registry, pid, key, value),
      else: {:error, :not_alive}
  end

  @ask_ms 5_000

  defp alive_there?(pid) do
    :erpc.call(node(pid), :erlang, :is_process_alive, [pid], @ask_ms)
  catch
    # The node is away, or does not answer: nobody could find the process there either.
    :error, {:erpc, _reason} -> false
  end

  defp registered({:ok, _owner} = registered, _registry, _pid, _key, _value), do: registered

  defp registered({:notify, owner, listeners}, registry, pid, key, value) do
    for listener <- listeners, do: Kernel.send(listener, {:register, registry, key, pid, value})
    {:ok, owner}
  end

  defp registered({:error, :system_limit}, _registry, _pid, _key, _value),
    do: :erlang.error(:system_limit)

  defp registered({:error, _reason} = error, _registry, _pid, _key, _value), do: error

  @doc """
  Removes what the calling process has under `key`. Costs what it removes, however many other
  keys the process or processes the key has.

  Always `:ok`; listeners are told also if there was nothing. No read that begins after it
  returned finds what was removed.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Unregister)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Unregister, "key", 1)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Unregister, "key", 2)
      iex> Foundation.Registry.unregister(Docs.Unregister, "key")
      :ok
      iex> Foundation.Registry.keys(Docs.Unregister, self())
      []
  """
  @doc since: "0.1.0"
  @spec unregister(registry, key) :: :ok
  def unregister(registry, key) when is_atom(registry) do
    case Native.registry_unregister(registry, key) do
      :ok -> :ok
      nil -> unregistered(ETS.unregister(registry, self(), key), registry, self(), key)
      notify -> unregistered(notify, registry, self(), key)
    end
  end

  @doc """
  Removes what another process has under `key`, as `unregister/2` would if it called. Costs what
  it removes; always `:ok`, also for one that is dead.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.UnregisterFor)
      iex> {:ok, _} = Foundation.Registry.register(Docs.UnregisterFor, "key", 1)
      iex> Foundation.Registry.unregister_for(Docs.UnregisterFor, self(), "key")
      :ok
  """
  @doc since: "0.1.0"
  @spec unregister_for(registry, pid, key) :: :ok
  def unregister_for(registry, pid, key) when is_atom(registry) and is_pid(pid) do
    backend = Backend.of!(registry)
    registry |> backend.unregister(pid, key) |> unregistered(registry, pid, key)
  end

  defp unregistered(:ok, _registry, _pid, _key), do: :ok

  defp unregistered({:notify, listeners}, registry, pid, key) do
    for listener <- listeners, do: Kernel.send(listener, {:unregister, registry, key, pid})
    :ok
  end

  @doc """
  Removes what the calling process has under `key` with a value that matches `pattern` and
  `guards` (see `match/4`). Costs the caller's entries under the key.

  Always `:ok`; listeners are told if nothing of the caller's is left under the key.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.UnregisterMatch)
      iex> for n <- 1..3, do: Foundation.Registry.register(Docs.UnregisterMatch, "key", n)
      iex> guards = [{:>, :"$1", 1}]
      iex> Foundation.Registry.unregister_match(Docs.UnregisterMatch, "key", :"$1", guards)
      iex> Foundation.Registry.values(Docs.UnregisterMatch, "key", self())
      [1]
  """
  @doc since: "0.1.0"
  @spec unregister_match(registry, key, match_pattern, guards) :: :ok
  def unregister_match(registry, key, pattern, guards \\ []) when is_list(guards) do
    backend = Backend.of!(registry)
    own = backend.entries(registry, key, self())
    matching = MatchSpec.matching_ids(own, key, pattern, guards)
    if matching != [], do: backend.remove(registry, key, self(), matching)

    if length(matching) == length(own) do
      {_kind, _partitions, listeners, _owner} = backend.config(registry)
      unregistered({:notify, listeners}, registry, self(), key)
    else
      :ok
    end
  end

  @doc """
  Replaces the caller's value under the unique `key` by what `callback` makes of it.

  Returns `{new, old}`, or `:error` if the caller has no such key. **Cost:** O(1). Raises
  `ArgumentError` where keys are not unique.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Update)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Update, "key", 1)
      iex> Foundation.Registry.update_value(Docs.Update, "key", &(&1 + 1))
      {2, 1}
  """
  @doc since: "0.1.0"
  @spec update_value(registry, key, (value -> value)) :: {new :: value, old :: value} | :error
  def update_value(registry, key, callback) when is_atom(registry) and is_function(callback, 1) do
    case Backend.of!(registry).update_value(registry, key, callback) do
      {:not_unique, kind} ->
        raise ArgumentError,
              "Foundation.Registry.update_value/3 is not supported for " <>
                "#{inspect(Options.keys(kind))} registries"

      updated_or_error ->
        updated_or_error
    end
  end

  @doc """
  Returns the process under the unique `key`; if there is none, starts it, once for all callers.

  One caller of a key runs `fun`, in its own process, which starts a process and returns `{:ok,
  pid}`. `ensure/3` registers that process, with the value `nil`, unless it has registered itself.
  The other callers wait and get the same result. `{:error, reason}` from `fun` goes to all of
  them. An exception in `fun` is raised in its own caller, and the others get `{:error,
  exception}`. If the caller that runs `fun` dies, the next one runs its own `fun` at once.

  `{:error, {:already_started, pid}}` from `fun` counts as `{:ok, pid}`, and a process that died
  before it was registered gives `{:error, :not_alive}`. If another process takes the key by
  `register/3` meanwhile, that process is the result, and the started one is stopped with
  `:shutdown`.

  A process that `fun` links to its caller ends with that caller, so start it under a supervisor.
  If `fun` calls `ensure/3` for its own key, that call raises `ArgumentError`. A process that waits
  for `fun` must not do so either: it would wait forever.

  **Cost:** one lookup if the key is registered, else a message to a process of the application and
  back, and `fun`. Raises `ArgumentError` where keys are not unique, and if `fun` returns anything
  else.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Ensure)
      iex> start = fn -> Agent.start(fn -> 0 end) end
      iex> {:ok, pid} = Foundation.Registry.ensure(Docs.Ensure, "key", start)
      iex> {:ok, ^pid} = Foundation.Registry.ensure(Docs.Ensure, "key", start)
      iex> Foundation.Registry.ensure(Docs.Ensure, "other", fn -> {:error, :no_room} end)
      {:error, :no_room}
  """
  @doc since: "0.1.0"
  @spec ensure(registry, key, (() -> {:ok, pid} | {:ok, pid, term} | {:error, reason})) ::
          {:ok, pid} | {:error, reason | term}
        when reason: term
  def ensure(registry, key, fun) when is_atom(registry) do
    function!(fun, "ensure/3")

    case find(registry, key) do
      :undefined ->
        Ensure.run(registry, key, fun)

      :duplicate ->
        raise ArgumentError,
              "Foundation.Registry.ensure/3 is not supported for duplicate registries"

      pid ->
        {:ok, pid}
    end
  end

  ## Reading

  @doc """
  Returns the `{pid, value}` pairs under `key`, duplicate ones in the order of registration.

  **Cost:** O(entries under the key), in the caller, without a lock; of a unique key O(1). It sees
  every registration that had returned when it began, and no pair of a dead process.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Lookup)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Lookup, "key", 1)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Lookup, "key", 2)
      iex> Foundation.Registry.lookup(Docs.Lookup, "key")
      [{self(), 1}, {self(), 2}]
  """
  @doc since: "0.1.0"
  @spec lookup(registry, key) :: [{pid, value}]
  def lookup(registry, key) when is_atom(registry) do
    # `nil`: the native engine has no registry of this name.
    case Native.registry_lookup(registry, key) do
      nil -> ETS.lookup(registry, key)
      entries -> entries
    end
  end

  @doc """
  Returns what `lookup/2` gives for each of `keys`, in their order, in one call.

  **Cost:** O(keys and what is under them), in the caller. Each key is read by itself: no snapshot
  of all.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.LookupMany)
      iex> {:ok, _} = Foundation.Registry.register(Docs.LookupMany, "key", 1)
      iex> Foundation.Registry.lookup_many(Docs.LookupMany, ["key", "other"])
      [[{self(), 1}], []]
  """
  @doc since: "0.1.0"
  @spec lookup_many(registry, [key]) :: [[{pid, value}]]
  def lookup_many(registry, keys) when is_atom(registry) and is_list(keys),
    do: Backend.of!(registry).lookup_many(registry, keys)

  @doc """
  Returns the values of `pid` under `key`; `[]` for a dead process. Costs the entries of `pid`
  under the key, in the caller.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Values)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Values, "key", 1)
      iex> Foundation.Registry.values(Docs.Values, "key", self())
      [1]
  """
  @doc since: "0.1.0"
  @spec values(registry, key, pid) :: [value]
  def values(registry, key, pid) when is_atom(registry) and is_pid(pid) do
    case Native.registry_values(registry, key, pid) do
      nil -> ETS.values(registry, key, pid)
      values -> values
    end
  end

  # As Elixir's: what is no process has no values.
  def values(registry, _key, _other) when is_atom(registry) do
    Backend.of!(registry)
    []
  end

  @doc """
  Returns the keys of `pid`, one for each entry, in no particular order; `[]` for a dead process,
  at once. **Cost:** O(entries of `pid`), in the caller.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Keys)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Keys, "key", 1)
      iex> Foundation.Registry.keys(Docs.Keys, self())
      ["key"]
  """
  @doc since: "0.1.0"
  @spec keys(registry, pid) :: [key]
  def keys(registry, pid) when is_atom(registry) and is_pid(pid),
    do: Backend.of!(registry).keys(registry, pid)

  @doc """
  Returns the `{pid, value}` pairs under `key` whose value matches `pattern` and `guards`.

  In the pattern, `:_` matches anything. `:"$1"`, `:"$2"`, … are variables for the guards, which are
  those of a match specification. **Cost:** O(entries under the key).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Match)
      iex> for n <- 1..3, do: Foundation.Registry.register(Docs.Match, "key", {:n, n})
      iex> Foundation.Registry.match(Docs.Match, "key", {:n, :"$1"}, [{:>, :"$1", 2}])
      [{self(), {:n, 3}}]
  """
  @doc since: "0.1.0"
  @spec match(registry, key, match_pattern, guards) :: [{pid, value}]
  def match(registry, key, pattern, guards \\ []) when is_atom(registry) and is_list(guards),
    do: Backend.of!(registry).match(registry, key, pattern, guards)

  @doc """
  Returns how many pairs `match/4` would. **Cost:** O(entries under the key).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.CountMatch)
      iex> for n <- 1..3, do: Foundation.Registry.register(Docs.CountMatch, "key", n)
      iex> Foundation.Registry.count_match(Docs.CountMatch, "key", :"$1", [{:>, :"$1", 1}])
      2
  """
  @doc since: "0.1.0"
  @spec count_match(registry, key, match_pattern, guards) :: non_neg_integer
  def count_match(registry, key, pattern, guards \\ [])
      when is_atom(registry) and is_list(guards),
      do: Backend.of!(registry).count_match(registry, key, pattern, guards)

  @doc """
  Returns what a match specification over `{key, pid, value}` makes of the entries. Raises
  `ArgumentError` for one that is invalid.

  **Cost:** O(entries), by chunks; where each part of the specification binds its key, O(entries
  under these keys). The variables `:"$_"` and `:"$$"` show how entries are laid out: do not use
  them.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Select)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Select, "key", 1)
      iex> Foundation.Registry.select(Docs.Select, [{{:"$1", :_, :"$2"}, [], [{{:"$1", :"$2"}}]}])
      [{"key", 1}]
  """
  @doc since: "0.1.0"
  @spec select(registry, spec) :: [term]
  def select(registry, spec) when is_atom(registry) and is_list(spec),
    do: Backend.of!(registry).select(registry, spec, "select/2")

  @doc """
  Returns for how many entries a match specification gives `true`. Costs what `select/2` does.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.CountSelect)
      iex> {:ok, _} = Foundation.Registry.register(Docs.CountSelect, "key", 1)
      iex> Foundation.Registry.count_select(Docs.CountSelect, [{{:_, :_, 1}, [], [true]}])
      1
  """
  @doc since: "0.1.0"
  @spec count_select(registry, spec) :: non_neg_integer
  def count_select(registry, spec) when is_atom(registry) and is_list(spec),
    do: Backend.of!(registry).count_select(registry, spec, "count_select/2")

  @doc """
  Returns the number of entries. **Cost:** O(1); may run behind deaths by milliseconds.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Count)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Count, "key", 1)
      iex> Foundation.Registry.count(Docs.Count)
      1
  """
  @doc since: "0.1.0"
  @spec count(registry) :: non_neg_integer
  def count(registry) when is_atom(registry) do
    case Native.registry_count(registry) do
      nil -> ETS.count(registry)
      count -> count
    end
  end

  @doc """
  Returns all entries as a lazy enumerable of `{key, pid, value}`, read by chunks as it is used.

  **Cost:** O(entries used), in the caller, with a chunk of them in memory. No entry is of a
  process that was dead when its chunk was read. An entry that is there throughout appears exactly
  once, others at most once.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Stream)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Stream, "key", 1)
      iex> Enum.to_list(Foundation.Registry.stream(Docs.Stream))
      [{"key", self(), 1}]
  """
  @doc since: "0.1.0"
  @spec stream(registry) :: Enumerable.t()
  def stream(registry) when is_atom(registry) do
    Stream.flat_map(Backend.of!(registry).chunks(registry), & &1)
  end

  @doc """
  Returns figures of the table: its entries (`:size`), distinct `:keys`, registrants (`:processes`),
  `:memory` in bytes, `:engine`, and `:drops`, the registrations that a bound refused.

  **Cost:** O(1) in the native engine, O(entries) in the ETS engine; behind deaths by
  milliseconds.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Info)
      iex> for n <- 1..3, do: Foundation.Registry.register(Docs.Info, "key", n)
      iex> %{size: 3, keys: 1, processes: 1, drops: 0} = Foundation.Registry.info(Docs.Info)
  """
  @doc since: "0.1.0"
  @spec info(registry) :: %{
          size: non_neg_integer,
          keys: non_neg_integer,
          processes: non_neg_integer,
          memory: non_neg_integer,
          engine: :native | :ets,
          drops: non_neg_integer
        }
  def info(registry) when is_atom(registry) do
    backend = Backend.of!(registry)
    registry |> backend.info() |> Map.put(:engine, if(backend == ETS, do: :ets, else: :native))
  end

  ## Sending

  @doc """
  Calls a function, or `{module, function, arguments}` with the entries put before the arguments,
  with the `{pid, value}` pairs under `key`, if there are any. Returns `:ok`.

  It runs in the caller. Of a `{:duplicate, :pid}` registry with partitions it is called once for
  each that has entries, with `parallel: true` in a task each. **Cost:** O(entries under the key).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Dispatch)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Dispatch, "key", 1)
      iex> greet = fn [{pid, 1}] -> send(pid, :hello) end
      iex> Foundation.Registry.dispatch(Docs.Dispatch, "key", greet)
      :ok
  """
  @doc since: "0.1.0"
  @spec dispatch(registry, key, dispatcher, dispatch_opts) :: :ok
        when dispatcher: ([{pid, value}] -> term) | {module, atom, [term]}
  def dispatch(registry, key, mfa_or_fun, opts \\ [])
      when is_atom(registry) and is_function(mfa_or_fun, 1)
      when is_atom(registry) and tuple_size(mfa_or_fun) == 3 do
    case lookup(registry, key) do
      [] when opts == [] -> :ok
      entries -> Dispatch.run(entries, groups(registry), mfa_or_fun, opts)
    end
  end

  defp groups(registry) do
    Native.registry_groups(registry) || Dispatch.groups(ETS.config(registry))
  end

  @doc """
  Sends `message` once for each entry under `key`; returns how many were sent.

  **Cost:** O(entries under the key), in the caller; none goes to a dead process.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :duplicate, name: Docs.Broadcast)
      iex> {:ok, _} = Foundation.Registry.register(Docs.Broadcast, "key", nil)
      iex> Foundation.Registry.broadcast(Docs.Broadcast, "key", :hello)
      1
  """
  @doc since: "0.1.0"
  @spec broadcast(registry, key, message :: term) :: non_neg_integer
  def broadcast(registry, key, message) when is_atom(registry),
    do: Backend.of!(registry).broadcast(registry, key, message)

  ## Metadata and locks

  @doc """
  Returns `{:ok, value}` of the registry's metadata, or `:error`. **Cost:** O(1).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Meta, meta: [a: 1])
      iex> Foundation.Registry.meta(Docs.Meta, :a)
      {:ok, 1}
  """
  @doc since: "0.1.0"
  @spec meta(registry, meta_key) :: {:ok, meta_value} | :error
  def meta(registry, key) when is_atom(registry) and (is_atom(key) or is_tuple(key)) do
    case Native.registry_meta(registry, key) do
      nil -> ETS.meta(registry, key)
      found -> found
    end
  end

  @doc """
  Stores metadata under an atom or a tuple, in place of what is there. Returns `:ok`. **Cost:**
  O(1).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.PutMeta)
      iex> Foundation.Registry.put_meta(Docs.PutMeta, {:a, 1}, :value)
      :ok
  """
  @doc since: "0.1.0"
  @spec put_meta(registry, meta_key, meta_value) :: :ok
  def put_meta(registry, key, value)
      when is_atom(registry) and (is_atom(key) or is_tuple(key)) do
    case Native.registry_put_meta(registry, key, value) do
      nil -> ETS.put_meta(registry, key, value)
      :ok -> :ok
      {:error, :system_limit} -> :erlang.error(:system_limit)
    end
  end

  @doc """
  Deletes metadata, if it is there. Returns `:ok`. **Cost:** O(1).

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.DeleteMeta)
      iex> Foundation.Registry.delete_meta(Docs.DeleteMeta, :a)
      :ok
  """
  @doc since: "0.1.0"
  @spec delete_meta(registry, meta_key) :: :ok
  def delete_meta(registry, key) when is_atom(registry) and (is_atom(key) or is_tuple(key)),
    do: Backend.of!(registry).delete_meta(registry, key)

  @doc """
  Runs `function` in the caller while no other runs under the same `lock_key`; returns its result.

  Waiting callers get the lock in the order they came, also when its holder dies or raises. Lock
  keys have nothing to do with registered keys. A lock is not re-entrant: a holder that requests
  it again deadlocks. Locks outlive every process of the registry's area, its supervisor included,
  and end with the application.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.Lock)
      iex> Foundation.Registry.lock(Docs.Lock, :hello, fn -> 1 + 1 end)
      2
  """
  @doc since: "0.1.0"
  @spec lock(registry, term, (() -> result)) :: result when result: var
  def lock(registry, lock_key, function) when is_atom(registry) and is_function(function, 0) do
    Backend.of!(registry)
    {:ok, result} = Locks.run({registry, lock_key}, :infinity, function)
    result
  end

  @doc """
  Works like `lock/3`, but waits for the lock at most `timeout` milliseconds, or `:infinity`.

  Raises `Foundation.Timeout` without a call of the function if the lock is not free by then; with
  0, if it is not free at once. The caller then has nothing and is in no queue. Only the wait is
  bounded: the function may take as long as it needs.

      iex> {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: Docs.LockTimeout)
      iex> Foundation.Registry.lock(Docs.LockTimeout, :hello, fn -> 1 + 1 end, 5_000)
      2
      iex> Foundation.Registry.lock(Docs.LockTimeout, :hello, fn ->
      ...>   Foundation.Registry.lock(Docs.LockTimeout, :hello, fn -> :not_called end, 0)
      ...> end, 5_000)
      ** (Foundation.Timeout) the call did not end within 0 ms
  """
  @doc since: "0.1.0"
  @spec lock(registry, term, (() -> result), timeout) :: result when result: var
  def lock(registry, lock_key, function, timeout) when is_atom(registry) do
    function!(function, "lock/4")
    place = "the timeout of Foundation.Registry.lock/4"
    Foundation.Options.value!(timeout, Foundation.Options.time(0), place)
    Backend.of!(registry)

    case Locks.run({registry, lock_key}, timeout, function) do
      {:ok, result} -> result
      :timeout -> raise Timeout, ms: timeout
    end
  end

  defp function!(function, _name) when is_function(function, 0), do: function

  defp function!(other, name) do
    raise ArgumentError,
          "expected the function of Foundation.Registry.#{name} to take no arguments, " <>
            "got: #{inspect(other)}"
  end
end
