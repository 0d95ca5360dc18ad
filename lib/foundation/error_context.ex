defmodule Foundation.ErrorContext do
  @moduledoc """
  Keeps what a process is working on in Logger metadata, so that every line that it logs names it.

      iex> alias Foundation.ErrorContext
      iex> ErrorContext.with_context(%{request_id: 123}, fn ->
      ...>   ErrorContext.with_context(%{user: "ada"}, fn -> ErrorContext.get_context() end)
      ...> end)
      %{request_id: 123, user: "ada"}
      iex> ErrorContext.get_context()
      %{}

  A context is a map of the application's own, or a struct from `new/3`, which also has an
  operation, a correlation id and breadcrumbs. It belongs to one process.

  ## In the log

  The context is in the metadata under `:error_context`. Each of its values also stands under its
  own key, so that with

      config :logger, :console, metadata: [:request_id]

  a line says `request_id=123`. A struct from `new/3` gives its `:operation_id`, `:correlation_id`
  and the keys of its `:metadata`.

  A value stands under its key as it is, maps, lists and structs too, for handlers that take them
  apart (Sentry, LoggerJSON). It stands there as text in these cases:

  * It prints to more than `max_value_bytes`. The text is cut and ends in `…`.
  * A formatter of Logger or OTP would fail on it: an invalid string, an improper list, a struct
    whose `String.Chars` raises.
  * It is a string or a charlist with control characters, which could forge a line of the log. They
    are escaped.

  The console leaves maps, lists and tuples out. To have them there as text, say
  `config :foundation, error_context: [nested: :text]`.

  These stand under `:error_context` only: keys that are not atoms, breadcrumbs, and keys that
  Logger uses itself (`:pid`, `:time`, `:mfa`, `:module`, …). A struct that implements
  `String.Chars` stands there as a map of its fields. No value makes logging fail.

  A value of the application's own under one of these keys is hidden by the context and
  comes back when the context goes.

  ## When something is raised

  `with_context/2` restores exactly the earlier metadata, whether its function returns or raises.
  That also undoes changes that the function made. The exception continues unchanged. Call
  `enrich_error/1` in an outer `rescue`, before another context is set there, to get the context
  at the point of the raise. A crash report has the context of its process. A `GenServer`, a
  `Task`, a `:proc_lib` process and a process that this module started report any context. A
  process of `spawn/1` reports the context of the `with_context/2` that it crashed in.

  ## To other processes

  Nothing is inherited. `async/1`, `async_stream/3`, `spawn_with_context/1` and
  `spawn_link_with_context/1` start a process with the context of the caller, and `propagate/1`
  wraps a function that some other code will run elsewhere. `get_context(callers: true)` looks in
  the processes that a `Task` was started for.

  ## Consistency

  A context is the process's own: no other process changes it, and it is gone with the
  process. All functions work while the application `:foundation` is not running, except
  that exceptions are then enriched with the current context instead of that of the raise.
  When `:use_logger_error_context` (`Foundation.FeatureFlags`) changes, the context of a process
  moves with its next call of a function here.

  ## Telemetry events

  | event | measurements | metadata | when |
  |---|---|---|---|
  | `[:foundation, :error_context, :set]` | `:depth` (levels) | `%{}` | on each set, and each entry of a level |

  The depth is 0 for `set_context/1` outside of everything, 1 in the first `with_context/2`.

  ## Bounds

  Under `config :foundation, error_context: [...]`:

  #{Foundation.Options.docs(Foundation.ErrorContext.Limits.schema())}

  Besides, one context is kept for each process that something was raised in: the newest.
  """

  require Logger

  alias Foundation.{Callback, Callers}
  alias Foundation.ErrorContext.{Limits, Raised, Store}
  alias Foundation.RequestContext

  @set [:foundation, :error_context, :set]

  @enforce_keys [:operation_id, :correlation_id, :module, :function, :start_time]
  defstruct [
    :operation_id,
    :correlation_id,
    :module,
    :function,
    :start_time,
    :parent_context,
    depth: 0,
    metadata: %{},
    breadcrumbs: []
  ]

  @typedoc "Where a context has been, and when (monotonic time, native unit)."
  @type breadcrumb :: %{
          module: module,
          function: atom,
          timestamp: integer,
          metadata: map
        }

  @typedoc """
  An operation: `:operation_id` is unique in this VM, `:correlation_id` is handed on to children,
  `:start_time` is monotonic time in native units, breadcrumbs are oldest first.
  """
  @type operation :: %__MODULE__{
          operation_id: pos_integer,
          correlation_id: String.t(),
          module: module,
          function: atom,
          start_time: integer,
          parent_context: t | nil,
          depth: non_neg_integer,
          metadata: map,
          breadcrumbs: [breadcrumb]
        }

  @type t :: operation | %{optional(term) => term}

  @doc """
  Replaces the context of this process. The keys of the earlier context leave the metadata.

  **Cost:** O(printed size of both). Raises `FunctionClauseError` if `context` is not a map.

      iex> Foundation.ErrorContext.set_context(%{request_id: 1})
      :ok
      iex> Logger.metadata()[:request_id]
      1
  """
  @doc since: "0.1.0"
  @spec set_context(t) :: :ok
  def set_context(context) when is_map(context) do
    context |> Store.set() |> emit()
  end

  @doc """
  Returns the context of this process, exactly as it was set, or `%{}`. **Cost:** O(1).

  With `callers: true` and no context of its own, the process gets the current context of its
  nearest caller that has one. Callers are those that `Task` keeps in `$callers`. Dead processes
  and processes of other nodes are skipped. **Cost:** O(size of their dictionaries).

      iex> Foundation.ErrorContext.get_context()
      %{}
  """
  @doc since: "0.1.0"
  @spec get_context(callers: boolean) :: t
  def get_context(options \\ [])

  def get_context([]), do: Store.get() || %{}

  def get_context(options) do
    [callers: callers] = Keyword.validate!(options, callers: false)
    own = get_context()

    if callers and own == %{} do
      Enum.find_value(Callers.list(), own, &Store.get_of/1)
    else
      own
    end
  end

  @doc """
  Removes the context of this process from the metadata. Everything else there stays. Returns
  `:ok`, also where there is none. **Cost:** O(keys of the metadata).

      iex> Logger.metadata(user: "ada")
      iex> Foundation.ErrorContext.set_context(%{request_id: 1})
      iex> Foundation.ErrorContext.clear_context()
      :ok
      iex> Logger.metadata()
      [user: "ada"]
  """
  @doc since: "0.1.0"
  @spec clear_context() :: :ok
  def clear_context do
    Store.clear()
    :ok
  end

  @doc """
  Runs `fun` with `context` merged into the one there is, and returns what it returns.

  However it ends, the metadata is then exactly what it was before. O(printed size of
  `context`), while there are few keys with plain values; else of the merged context. Past the
  limit of depth `fun` runs in the context there is.

      iex> Foundation.ErrorContext.with_context(%{request_id: 1}, fn ->
      ...>   Logger.metadata()[:request_id]
      ...> end)
      1
      iex> Logger.metadata()
      []
  """
  @doc since: "0.1.0"
  @spec with_context(t, (() -> result)) :: result when result: var
  def with_context(context, fun) when is_map(context) and is_function(fun, 0) do
    nest(context, :merge, fun)
  end

  def with_context(context, fun) when is_map(context), do: Callback.refuse!(fun, 0)

  @doc """
  Runs `fun` with `context` in place of the current one. Otherwise works like `with_context/2`.

      iex> Foundation.ErrorContext.with_context(%{request_id: 1}, fn ->
      ...>   Foundation.ErrorContext.with_temporary_context(%{job: 2}, fn ->
      ...>     Foundation.ErrorContext.get_context()
      ...>   end)
      ...> end)
      %{job: 2}
  """
  @doc since: "0.1.0"
  @spec with_temporary_context(t, (() -> result)) :: result when result: var
  def with_temporary_context(context, fun) when is_map(context) and is_function(fun, 0) do
    nest(context, :replace, fun)
  end

  def with_temporary_context(context, fun) when is_map(context), do: Callback.refuse!(fun, 0)

  @doc """
  Returns a context for the operation `module.function`.

  The third argument is its metadata, a map, or a keyword list of `:metadata`, `:correlation_id`
  (by default a new one) and `:parent_context`. It is only made, not set. **Cost:** O(size of the
  metadata). Raises `ArgumentError` for any other option.

      iex> context = Foundation.ErrorContext.new(MyApp.Orders, :place, metadata: %{order: 7})
      iex> {context.module, context.function, context.metadata}
      {MyApp.Orders, :place, %{order: 7}}
      iex> Foundation.ErrorContext.format_breadcrumbs(context) =~ "MyApp.Orders.place"
      true
  """
  @doc since: "0.1.0"
  @spec new(module, atom, map | keyword) :: operation
  def new(module, function, options \\ [])

  def new(module, function, metadata) when is_map(metadata) do
    new(module, function, metadata: metadata)
  end

  def new(module, function, options) when is_atom(module) and is_atom(function) do
    options = Keyword.validate!(options, [:correlation_id, :parent_context, metadata: %{}])
    now = System.monotonic_time()

    %__MODULE__{
      operation_id: System.unique_integer([:positive]),
      correlation_id: options[:correlation_id] || RequestContext.new_request_id(),
      module: module,
      function: function,
      start_time: now,
      parent_context: options[:parent_context],
      metadata: Map.new(options[:metadata]),
      breadcrumbs: [breadcrumb(module, function, %{}, now)]
    }
  end

  @doc """
  Returns a context for an operation that is part of `parent`'s: with its correlation id, its
  metadata, with `metadata` merged in, and its breadcrumbs, with one more. Of a parent that is a
  plain map the keys become metadata. It is only made, not set. O(breadcrumbs kept and size of the
  metadata).

      iex> parent = Foundation.ErrorContext.new(MyApp.Orders, :place, %{order: 7})
      iex> child = Foundation.ErrorContext.child_context(parent, MyApp.Stock, :take, %{item: 1})
      iex> {child.correlation_id == parent.correlation_id, child.metadata}
      {true, %{item: 1, order: 7}}
  """
  @doc since: "0.1.0"
  @spec child_context(t, module, atom, map) :: operation
  def child_context(parent, module, function, metadata \\ %{})

  def child_context(%__MODULE__{} = parent, module, function, metadata)
      when is_map(metadata) do
    child =
      new(module, function,
        correlation_id: parent.correlation_id,
        metadata: Map.merge(parent.metadata, metadata)
      )

    # The chain of parents is cut at its limit, so that a context that is handed on repeatedly
    # stays bounded.
    {parent, depth} =
      if parent.depth < Limits.max_depth(),
        do: {parent, parent.depth + 1},
        else: {%{parent | parent_context: nil}, 1}

    crumbs = parent.breadcrumbs ++ [breadcrumb(module, function, metadata, child.start_time)]
    %{child | parent_context: parent, depth: depth, breadcrumbs: newest(crumbs)}
  end

  def child_context(parent, module, function, metadata) when is_map(parent) do
    child = new(module, function, metadata: Map.merge(parent, metadata))
    %{child | parent_context: parent, depth: 1}
  end

  @doc """
  Appends a breadcrumb to `context`, and drops the oldest one at the limit.

  **Cost:** O(breadcrumbs kept). In a context that is a plain map they are under `:breadcrumbs`.

      iex> context = Foundation.ErrorContext.add_breadcrumb(%{}, MyApp.Stock, :take, %{item: 1})
      iex> [%{module: MyApp.Stock, function: :take, metadata: %{item: 1}}] = context.breadcrumbs
  """
  @doc since: "0.1.0"
  @spec add_breadcrumb(t, module, atom, map) :: t
  def add_breadcrumb(context, module, function, metadata \\ %{})
      when is_map(context) and is_atom(module) and is_atom(function) and is_map(metadata) do
    crumb = breadcrumb(module, function, metadata, System.monotonic_time())
    Map.put(context, :breadcrumbs, newest(Map.get(context, :breadcrumbs, []) ++ [crumb]))
  end

  @doc """
  Merges `metadata` into `context`: into its `:metadata` if it is from `new/3`, else into itself.
  The context of the process stays as it is. **Cost:** O(size of both).

      iex> Foundation.ErrorContext.add_metadata(%{request_id: 1}, %{user: "ada"})
      %{request_id: 1, user: "ada"}
  """
  @doc since: "0.1.0"
  @spec add_metadata(t, map) :: t
  def add_metadata(context, metadata) when is_map(context) and is_map(metadata) do
    merge(context, metadata)
  end

  @doc """
  Returns an exception, or any reason, with the context that it belongs to.

  That is the context it was raised in, if it has left a `with_context/2` of this process on its
  way here, else the current one. An `{:error, reason}` stays one. **Cost:** O(size of the
  exception), which is hashed, and one read of a table.

      iex> try do
      ...>   Foundation.ErrorContext.with_context(%{request_id: 1}, fn -> raise "no" end)
      ...> rescue
      ...>   exception -> Foundation.ErrorContext.enrich_error(exception)
      ...> end
      %{error: %RuntimeError{message: "no"}, context: %{request_id: 1}}
      iex> Foundation.ErrorContext.enrich_error({:error, :not_found})
      {:error, %{reason: :not_found, context: %{}}}
  """
  @doc since: "0.1.0"
  @spec enrich_error({:error, reason} | error) ::
          {:error, %{reason: reason, context: t}} | %{error: error, context: t}
        when reason: var, error: var
  def enrich_error(error), do: enhance_error(error, context_of(error))

  @doc """
  Returns an exception, a reason or an `{:error, reason}` with the given context.

  One that has a context already has `context` merged into it. **Cost:** O(size of both contexts).

      iex> Foundation.ErrorContext.enhance_error(:timeout, %{request_id: 1})
      %{error: :timeout, context: %{request_id: 1}}
      iex> Foundation.ErrorContext.enhance_error({:error, :timeout}, %{request_id: 1})
      {:error, %{reason: :timeout, context: %{request_id: 1}}}
  """
  @doc since: "0.1.0"
  @spec enhance_error(term, t) :: map | {:error, map}
  def enhance_error({:error, %{reason: _reason, context: inner} = error}, context)
      when map_size(error) == 2 and is_map(inner) and is_map(context) do
    {:error, %{error | context: merge(inner, context)}}
  end

  def enhance_error({:error, reason}, context) when is_map(context) do
    {:error, %{reason: reason, context: context}}
  end

  def enhance_error(%{error: _error, context: inner} = enriched, context)
      when map_size(enriched) == 2 and is_map(inner) and is_map(context) do
    %{enriched | context: merge(inner, context)}
  end

  def enhance_error(error, context) when is_map(context), do: %{error: error, context: context}

  @doc """
  Returns `result`. An `{:error, reason}` gets `context`, with `more` merged in. **Cost:** O(1)
  for a success.

      iex> Foundation.ErrorContext.add_context({:ok, 1}, %{request_id: 1})
      {:ok, 1}
      iex> Foundation.ErrorContext.add_context({:error, :full}, %{request_id: 1}, %{queue: :mail})
      {:error, %{reason: :full, context: %{request_id: 1, queue: :mail}}}
  """
  @doc since: "0.1.0"
  @spec add_context(result, t, map) :: result | {:error, map} when result: var
  def add_context(result, context, more \\ %{})

  def add_context({:error, _reason} = error, context, more) when is_map(more) do
    enhance_error(error, merge(context, more))
  end

  def add_context(result, context, more) when is_map(context) and is_map(more), do: result

  @doc """
  Returns the breadcrumbs of `context` as text, oldest first, each with its age; `""` for none.
  **Cost:** O(breadcrumbs).

      iex> context = Foundation.ErrorContext.new(MyApp.Orders, :place)
      iex> context = Foundation.ErrorContext.add_breadcrumb(context, MyApp.Stock, :take)
      iex> Foundation.ErrorContext.format_breadcrumbs(context)
      "MyApp.Orders.place (0 ms ago) -> MyApp.Stock.take (0 ms ago)"
  """
  @doc since: "0.1.0"
  @spec format_breadcrumbs(t) :: String.t()
  def format_breadcrumbs(context) when is_map(context) do
    now = System.monotonic_time()

    context
    |> Map.get(:breadcrumbs, [])
    |> Enum.map_join(" -> ", fn crumb ->
      "#{inspect(crumb.module)}.#{crumb.function} (#{milliseconds(now - crumb.timestamp)} ms ago)"
    end)
  end

  @doc """
  Returns the milliseconds since the operation of `context` began, by the monotonic clock; `nil`
  for a plain map without a `:start_time`. **Cost:** O(1).

      iex> context = Foundation.ErrorContext.new(MyApp.Orders, :place)
      iex> Foundation.ErrorContext.get_operation_duration(context) in 0..60_000
      true
  """
  @doc since: "0.1.0"
  @spec get_operation_duration(t) :: non_neg_integer | nil
  def get_operation_duration(%{start_time: start_time}) when is_integer(start_time) do
    milliseconds(System.monotonic_time() - start_time)
  end

  def get_operation_duration(context) when is_map(context), do: nil

  @doc """
  Spawns a process that runs `fun` in the context that the caller has now. Returns its pid.

  Costs a `spawn/1` and a copy of the context. The report of its crash has the context.

      iex> test = self()
      iex> Foundation.ErrorContext.with_context(%{request_id: 1}, fn ->
      ...>   Foundation.ErrorContext.spawn_with_context(fn ->
      ...>     send(test, Foundation.ErrorContext.get_context())
      ...>   end)
      ...> end)
      iex> receive do: (context -> context)
      %{request_id: 1}
  """
  @doc since: "0.1.0"
  @spec spawn_with_context((() -> term)) :: pid
  def spawn_with_context(fun) when is_function(fun, 0) do
    spawn(reporting(starting_with(get_context(), fun)))
  end

  def spawn_with_context(other), do: Callback.refuse!(other, 0)

  @doc """
  Works like `spawn_with_context/1`, with a link to the caller.

      iex> pid = Foundation.ErrorContext.spawn_link_with_context(fn -> Process.sleep(:infinity) end)
      iex> {:links, links} = Process.info(self(), :links)
      iex> pid in links
      true
  """
  @doc since: "0.1.0"
  @spec spawn_link_with_context((() -> term)) :: pid
  def spawn_link_with_context(fun) when is_function(fun, 0) do
    spawn_link(reporting(starting_with(get_context(), fun)))
  end

  def spawn_link_with_context(other), do: Callback.refuse!(other, 0)

  @doc """
  Calls `Task.async/1` with `fun`, which runs in the caller's current context. Costs that and a
  copy of the context.

      iex> Foundation.ErrorContext.with_context(%{request_id: 1}, fn ->
      ...>   Task.await(Foundation.ErrorContext.async(&Foundation.ErrorContext.get_context/0))
      ...> end)
      %{request_id: 1}
  """
  @doc since: "0.1.0"
  @spec async((() -> term)) :: Task.t()
  def async(fun) when is_function(fun, 0), do: Task.async(starting_with(get_context(), fun))
  def async(other), do: Callback.refuse!(other, 0)

  @doc """
  Calls `Task.async_stream/3`, with its options. `fun` runs in the caller's current context, also
  if the stream is consumed in another one.

      iex> Foundation.ErrorContext.with_context(%{base: 10}, fn ->
      ...>   1..3
      ...>   |> Foundation.ErrorContext.async_stream(fn n ->
      ...>     Foundation.ErrorContext.get_context().base + n
      ...>   end)
      ...>   |> Enum.to_list()
      ...> end)
      [ok: 11, ok: 12, ok: 13]
  """
  @doc since: "0.1.0"
  @spec async_stream(Enumerable.t(), (term -> term), keyword) :: Enumerable.t()
  def async_stream(enumerable, fun, options \\ [])

  def async_stream(enumerable, fun, options) when is_function(fun, 1) do
    context = get_context()

    Task.async_stream(enumerable, &run_with(context, fn -> fun.(&1) end), options)
  end

  def async_stream(_enumerable, other, _options), do: Callback.refuse!(other, 1)

  @doc """
  Returns a function that runs `fun`, of up to 20 arguments, in the caller's current context, in
  whatever process it is called. That process's own context is put back after it. Each call costs
  what `with_temporary_context/2` does. Raises `FunctionClauseError` for a function of more
  arguments.

      iex> fun = Foundation.ErrorContext.with_context(%{request_id: 1}, fn ->
      ...>   Foundation.ErrorContext.propagate(fn x ->
      ...>     {x, Foundation.ErrorContext.get_context()}
      ...>   end)
      ...> end)
      iex> fun.(:x)
      {:x, %{request_id: 1}}
  """
  @doc since: "0.1.0"
  @spec propagate(fun) :: fun when fun: fun
  def propagate(fun) when is_function(fun), do: propagate(fun, get_context())

  for arity <- 0..20 do
    arguments = Macro.generate_arguments(arity, __MODULE__)

    defp propagate(fun, context) when is_function(fun, unquote(arity)) do
      fn unquote_splicing(arguments) ->
        nest(context, :replace, fn -> fun.(unquote_splicing(arguments)) end)
      end
    end
  end

  @doc false
  # `new` over `old`. A struct stays one, whichever of the two it is.
  @spec merge(t, t) :: t
  def merge(%__MODULE__{} = old, %__MODULE__{} = new) do
    %{new | metadata: Map.merge(old.metadata, new.metadata)}
  end

  def merge(%__MODULE__{} = old, new), do: %{old | metadata: Map.merge(old.metadata, new)}
  def merge(old, %__MODULE__{} = new), do: %{new | metadata: Map.merge(old, new.metadata)}
  def merge(old, new), do: :maps.merge(old, new)

  defp nest(context, how, fun) do
    case Store.enter(context, how) do
      {depth, saved} when is_integer(depth) ->
        try do
          emit(depth)
          fun.()
        catch
          kind, reason ->
            inner = {Store.get(), :logger.get_process_metadata()}
            Store.leave(saved)
            Raised.keep(kind, reason, __STACKTRACE__, depth, inner)
            :erlang.raise(kind, reason, __STACKTRACE__)
        else
          result ->
            Store.leave(saved)
            result
        end

      {:over, saved} ->
        Logger.warning(
          "expected at most #{Limits.max_depth()} nested contexts, got one more, " <>
            "which is ignored: does a function call itself through with_context/2?"
        )

        try do
          fun.()
        after
          Store.leave(saved)
        end

      :full ->
        fun.()
    end
  end

  defp emit(0), do: :telemetry.execute(@set, %{depth: 0}, %{})
  defp emit(depth), do: :telemetry.execute(@set, %{depth: depth}, %{})

  defp context_of(error) do
    current = Store.get()
    Raised.context_of(error, current) || %{}
  end

  # For a process of its own, whose metadata is left as it is: so a report of its crash has it.
  defp starting_with(context, fun), do: fn -> run_with(context, fun) end

  # A bare process does not report its own crash: the VM does, which knows no metadata.
  defp reporting(fun) do
    fn ->
      try do
        fun.()
      catch
        kind, reason ->
          inner = {Store.get(), :logger.get_process_metadata()}
          Raised.keep(kind, reason, __STACKTRACE__, 0, inner)
          :erlang.raise(kind, reason, __STACKTRACE__)
      end
    end
  end

  defp run_with(context, fun) do
    if context != %{}, do: set_context(context)
    fun.()
  end

  defp breadcrumb(module, function, metadata, now) do
    %{module: module, function: function, timestamp: now, metadata: metadata}
  end

  defp newest(breadcrumbs), do: Enum.take(breadcrumbs, -Limits.max_breadcrumbs())

  defp milliseconds(native), do: System.convert_time_unit(native, :native, :millisecond)
end
