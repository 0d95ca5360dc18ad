defmodule Foundation.Native do
  @moduledoc false
  # The stubs of the native library, and the one place that loads it. Nothing else.
  #
  # The body of a stub is no error: it says `nil`, "the native engine knows no such
  # table", which is what is true while no library is loaded. Public functions call
  # the stub first and fall through to the ETS engine on `nil`, so that the choice of
  # an engine costs nothing where it matters.
  #
  # `Foundation.Engine.boot/1` loads the library, and not `@on_load`, for three reasons. Only at
  # boot is it known whether the library is wanted (`engine: :ets` must not load it). An
  # `@on_load` that fails makes the whole module unloadable, stubs included. In a release it would
  # run before the application's environment is set. Here `@on_load` only serves a reload: after
  # `recompile` the new module gets the library of its predecessor.

  require Logger

  alias Foundation.Native.{Library, LibraryFile}

  @on_load :reattach

  @version Mix.Project.config()[:version]

  @doc """
  Loads the library at `path` (no extension), which must say that it is of `version`.

  `:ok` also where it is loaded already. An error's message names the cause.
  """
  @spec load(Path.t(), String.t()) :: :ok | {:error, String.t()}
  def load(path, version) do
    if library_version() == nil,
      do: attach(path, version, System.unique_integer([:positive]), _again = false),
      else: :ok
  end

  @doc """
  The version of the library that is loaded, `nil` when none is.
  """
  @spec library_version() :: String.t() | nil
  def library_version, do: absent()

  # The number of live objects of each kind in the library, for tests that look for leaks.
  @spec live_counts() :: %{optional(atom) => non_neg_integer} | nil
  def live_counts, do: absent()

  # Runs each time this module is loaded. A library belongs to one instance of a module at a time,
  # and cannot be taken from the current instance. In that one case this function fails, and the
  # current instance stays with its library. A deleted instance is purged, which releases its
  # library. The library pins itself into memory, so its tables survive the change.
  def reattach do
    with {path, version, instance} <- :persistent_term.get(__MODULE__, nil) do
      :code.purge(__MODULE__)

      case attach_again(path, version, instance) do
        :ok -> :ok
        {:error, cause} -> refuse(cause, :code.is_loaded(__MODULE__))
      end
    else
      nil -> :ok
    end
  end

  defp refuse(cause, _loaded = false) do
    Logger.error(
      "Foundation.Native was reloaded and could not take its library back: #{cause}. " <>
        "Native tables cannot be reached: restart the VM"
    )

    :ok
  end

  defp refuse(_cause, _loaded) do
    Logger.error(
      "Foundation.Native was not reloaded: the loaded module uses the library and stays. " <>
        "Restart the VM to replace it"
    )

    :in_use
  end

  defp attach_again(path, @version = version, instance),
    do: with(:ok <- Library.check(path), do: attach(path, version, instance, _again = true))

  defp attach_again(_path, version, _instance),
    do: {:error, "it is of version #{version}, and this module of #{@version}"}

  # `instance` is what the library knows itself by, so that no other passes for it.
  defp attach(path, version, instance, again) do
    # A magic reference, for the library to learn what one looks like.
    argument = {version, instance, again, :atomics.new(1, [])}

    case :erlang.load_nif(String.to_charlist(path), argument) do
      :ok ->
        :persistent_term.put(__MODULE__, {path, version, instance})

      {:error, {reason, message}} ->
        {:error, explain(reason, List.to_string(message), path, version, again)}
    end
  end

  defp explain(:load, _message, path, version, _again = false) do
    "the library #{path} is not of version #{version}: compile :foundation again"
  end

  defp explain(:load, _message, path, _version, _again = true) do
    "the library #{path} is another one than was loaded, without its tables"
  end

  defp explain(reason, message, path, _version, _again) do
    if File.exists?(path <> LibraryFile.extension()),
      do: "the library #{path} cannot be used: #{message} (#{reason})",
      else: "there is no library #{path}#{LibraryFile.extension()}"
  end

  # Not the literal `nil`: the type checkers of Elixir and Dialyzer would conclude that
  # no stub ever returns anything else.
  defp absent, do: :persistent_term.get({__MODULE__, :absent}, nil)

  # A reference that a library returned has no other engine to fall back to: the library is gone,
  # and its tables with it. Not `raise/1`, from which the type checkers would conclude that these
  # functions never return.
  defp detached do
    :erlang.nif_error(
      ArgumentError.exception(
        "this table cannot be reached: the native library is no longer loaded. Restart the VM"
      )
    )
  end

  # Returns each function that was called on a normal scheduler since the last request, with its
  # number of calls. For the longest call it has the nanoseconds of the clock and of the thread.
  # Only a library built with the feature `measure` can answer.
  @spec library_calls() ::
          [{String.t(), pos_integer, non_neg_integer, non_neg_integer}] | nil
  def library_calls, do: absent()

  ## Registry: tables

  @type name :: atom
  @type kind :: :unique | :duplicate_key | :duplicate_pid
  @type notified :: {:ok, pid} | {:notify, pid, [atom]}
  @type taken :: {:error, {:already_registered, pid}}
  @type limit :: {:error, :system_limit}

  # The calling process becomes the owner, or the adopter of a table that lost its owner.
  @spec registry_start(name, kind, pos_integer, [atom], keyword, timeout, pos_integer | :infinity) ::
          :created
          | :adopted
          | {:replaced, kind}
          | {:error, {:already_started, pid}}
          | limit
          | nil
  def registry_start(_name, _kind, _partitions, _listeners, _meta, _adopt_timeout, _max_entries),
    do: absent()

  # The owner's orderly stop: the table is gone after it.
  @spec registry_stop(name) :: :ok | nil
  def registry_stop(_name), do: absent()

  @spec registry_config(name) :: {kind, pos_integer, [atom], pid} | nil
  def registry_config(_name), do: absent()

  @spec registry_info(name) ::
          {non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer}
          | nil
  def registry_info(_name), do: absent()

  # Into how many groups a dispatch divides the entries of a key.
  @spec registry_groups(name) :: pos_integer | nil
  def registry_groups(_name), do: absent()

  @spec registry_count(name) :: non_neg_integer | nil
  def registry_count(_name), do: absent()

  @spec registry_names() :: [name]
  def registry_names, do: absent() || []

  ## Registry: entries, O(1)

  @spec registry_register(name, term, term) :: notified | taken | limit | nil
  def registry_register(_name, _key, _value), do: absent()

  # A remote pid is monitored by Foundation.Registry.Monitor before this is called.
  @spec registry_register_for(name, pid, term, term) ::
          notified | taken | limit | {:error, :not_alive} | nil
  def registry_register_for(_name, _pid, _key, _value), do: absent()

  @spec registry_unregister(name, term) :: :ok | {:notify, [atom]} | nil
  def registry_unregister(_name, _key), do: absent()

  @spec registry_unregister_for(name, pid, term) :: :ok | {:notify, [atom]} | nil
  def registry_unregister_for(_name, _pid, _key), do: absent()

  @spec registry_whereis(name, term) :: pid | :undefined | :duplicate | nil
  def registry_whereis(_name, _key), do: absent()

  # The value of the calling process's unique entry, and another one for it.
  @spec registry_fetch(name, term) :: {:ok, term} | :error | :duplicate | nil
  def registry_fetch(_name, _key), do: absent()

  @spec registry_set(name, term, term) :: :ok | :error | :duplicate | limit | nil
  def registry_set(_name, _key, _value), do: absent()

  @spec registry_replace(name, term, pid, term, term) ::
          :ok | :stale | :error | :duplicate | limit | nil
  def registry_replace(_name, _key, _pid, _expected, _new), do: absent()

  ## Registry: a key's or a process's entries

  @spec registry_lookup(name, term) :: [{pid, term}] | nil
  def registry_lookup(_name, _key), do: absent()

  # Answers a bounded prefix of the keys, and the keys that are left.
  @spec registry_lookup_many(name, [term]) :: {[[{pid, term}]], [term]} | nil
  def registry_lookup_many(_name, _keys), do: absent()

  @spec registry_values(name, term, pid) :: [term] | nil
  def registry_values(_name, _key, _pid), do: absent()

  @spec registry_entries(name, term, pid) :: [{non_neg_integer, term}] | nil
  def registry_entries(_name, _key, _pid), do: absent()

  @spec registry_remove(name, term, pid, [non_neg_integer]) :: non_neg_integer | nil
  def registry_remove(_name, _key, _pid, _ids), do: absent()

  ## Registry: walks, a bounded chunk a call; the first cursor is 0

  @type cursor :: term

  @spec registry_keys(name, pid, cursor) :: {[term], cursor | :done} | nil
  def registry_keys(_name, _pid, _cursor), do: absent()

  @spec registry_walk(name, cursor) :: {[{term, pid, term}], cursor | :done} | nil
  def registry_walk(_name, _cursor), do: absent()

  @spec registry_walk_key(name, term, cursor) :: {[{pid, term}], cursor | :done} | nil
  def registry_walk_key(_name, _key, _cursor), do: absent()

  # How many local processes were sent to, and the remote ones, which the caller sends to.
  @spec registry_broadcast(name, term, term, cursor) ::
          {non_neg_integer, [pid], cursor | :done} | nil
  def registry_broadcast(_name, _key, _message, _cursor), do: absent()

  # The same without the remote processes, to which their nodes send.
  @spec registry_broadcast_local(name, term, term, cursor) ::
          {non_neg_integer, cursor | :done} | nil
  def registry_broadcast_local(_name, _key, _message, _cursor), do: absent()

  ## Registry: metadata

  @spec registry_meta(name, term) :: {:ok, term} | :error | nil
  def registry_meta(_name, _key), do: absent()

  @spec registry_put_meta(name, term, term) :: :ok | limit | nil
  def registry_put_meta(_name, _key, _value), do: absent()

  @spec registry_delete_meta(name, term) :: :ok | nil
  def registry_delete_meta(_name, _key), do: absent()

  ## Registry: remote registrants, and clean-ups told by edge

  @spec registry_remote_down(name, pid) :: non_neg_integer | nil
  def registry_remote_down(_name, _pid), do: absent()

  @spec registry_remotes(name) :: [pid] | nil
  def registry_remotes(_name), do: absent()

  # The process gets `{:foundation_registry, :deaths}` when entries of the dead were removed from
  # that registry, one outstanding at most. One registry is watched, by one process.
  @spec registry_watch(name, pid) :: :ok | nil
  def registry_watch(_name, _pid), do: absent()

  # Takes the count of entries removed since, and arms the message again.
  @spec registry_take_cleaned(name) :: non_neg_integer | nil
  def registry_take_cleaned(_name), do: absent()

  ## Concurrent tables: O(1). A walk takes a bounded chunk per call, and its first cursor is 0.

  @type table :: reference

  # The table is the calling process's, and goes when that ends: then all of these raise.
  @spec concurrent_table_new() :: table | limit | nil
  def concurrent_table_new, do: absent()

  # A table that ends by `concurrent_table_end/1`, or when no term refers to it.
  @spec concurrent_table_new_unowned() :: table | limit | nil
  def concurrent_table_new_unowned, do: absent()

  @spec concurrent_table_end(table) :: :ok
  def concurrent_table_end(_table), do: detached()

  @spec concurrent_table_put(table, term, term) :: :ok | limit
  def concurrent_table_put(_table, _key, _value), do: detached()

  @spec concurrent_table_put_new(table, term, term) :: boolean | limit
  def concurrent_table_put_new(_table, _key, _value), do: detached()

  @spec concurrent_table_get(table, term, term) :: term
  def concurrent_table_get(_table, _key, _default), do: detached()

  # The version is of the write that set the value, and of no other write of this VM.
  @spec concurrent_table_fetch(table, term) :: {version :: pos_integer, term} | :error
  def concurrent_table_fetch(_table, _key), do: detached()

  # Whether the entry was still of that version, and has the new value.
  @spec concurrent_table_replace(table, term, pos_integer, term) :: boolean | limit
  def concurrent_table_replace(_table, _key, _version, _value), do: detached()

  @spec concurrent_table_delete(table, term) :: :ok
  def concurrent_table_delete(_table, _key), do: detached()

  @spec concurrent_table_size(table) :: non_neg_integer
  def concurrent_table_size(_table), do: detached()

  @spec concurrent_table_walk(table, cursor) :: {[{term, term}], cursor | :done}
  def concurrent_table_walk(_table, _cursor), do: detached()

  ## Event logs: by name; nil where there is no such log

  @type log_reason ::
          {:io, atom}
          | {:damaged, Path.t(), {atom, non_neg_integer}}
          | {:in_use, Path.t()}
          | {:wrong_version, non_neg_integer}
          | :other_stream
          | :closed
  @type log_expected :: :any | :none | :exists | non_neg_integer
  @type log_event ::
          {stream :: binary, version :: pos_integer, position :: pos_integer, at :: integer, term}

  # Opens a log for the calling process, or takes over the one that its predecessor left. Waits for
  # the disk on a dirty scheduler.
  @spec event_log_start(
          name,
          Path.t(),
          sync_ms :: non_neg_integer,
          segment_bytes :: pos_integer,
          max_event_bytes :: pos_integer,
          adopt_timeout :: non_neg_integer
        ) ::
          :created
          | :adopted
          | {:recovered, Path.t(), cut_bytes :: non_neg_integer}
          | {:error, {:already_started, pid} | log_reason}
          | nil
  def event_log_start(
        _name,
        _dir,
        _sync_ms,
        _segment_bytes,
        _max_event_bytes,
        _adopt_timeout
      ),
      do: absent()

  # Commits what is waiting, and closes the log. Waits for the disk on a dirty scheduler.
  @spec event_log_stop(name) :: :ok | nil
  def event_log_stop(_name), do: absent()

  @spec event_log_owner(name) :: pid | nil
  def event_log_owner(_name), do: absent()

  @spec event_log_names() :: [name] | nil
  def event_log_names, do: absent()

  # The writes answer by a message to the caller: `{reference, {:ok, number} | {:error, log_reason},
  # {nanoseconds, appends, events, bytes} | nil}`. O(bytes), on a dirty scheduler where there are
  # many.
  @spec event_log_append(name, binary, log_expected, integer, [binary], reference) ::
          :ok | :too_large | nil
  def event_log_append(_name, _stream, _expected, _at, _events, _reference), do: absent()

  @spec event_log_put_snapshot(name, binary, non_neg_integer, binary, reference) ::
          :ok | :too_large | nil
  def event_log_put_snapshot(_name, _stream, _version, _state, _reference), do: absent()

  @spec event_log_trim(name, binary, non_neg_integer, reference) :: :ok | nil
  def event_log_trim(_name, _stream, _before, _reference), do: absent()

  @spec event_log_delete(name, binary, log_expected, reference) :: :ok | nil
  def event_log_delete(_name, _stream, _expected, _reference), do: absent()

  # Makes the caller the process that sends the subscription's events. The message has the last
  # number that was acknowledged.
  @spec event_log_subscribe(
          name,
          binary,
          binary | :all,
          :end | non_neg_integer,
          pid,
          reference,
          arguments :: term
        ) :: :ok | {:error, {:already_subscribed, pid} | :system_limit} | nil
  def event_log_subscribe(_name, _key, _stream, _after, _subscriber, _reference, _arguments),
    do: absent()

  # The servers of living subscribers, with what they subscribed with.
  @spec event_log_subscriptions(name) :: [{pid, arguments :: term}] | nil
  def event_log_subscriptions(_name), do: absent()

  @spec event_log_server(name, binary) :: pid | :none | nil
  def event_log_server(_name, _key), do: absent()

  @spec event_log_release(name, binary, binary | :all) :: :ok | nil
  def event_log_release(_name, _key, _stream), do: absent()

  @spec event_log_forget(name, binary, reference) :: :ok | nil
  def event_log_forget(_name, _key, _reference), do: absent()

  # The process that is to be told, if none is outstanding. Durable within a second.
  @spec event_log_ack(name, binary, non_neg_integer) :: pid | :ok | nil
  def event_log_ack(_name, _key, _number), do: absent()

  # `:error` if another process sends the subscription's events now, or it was forgotten.
  @spec event_log_acknowledged(name, binary) :: non_neg_integer | :error | nil
  def event_log_acknowledged(_name, _key), do: absent()

  # One message `{:foundation_event_log, :appended}` when there is an event after `number`.
  @spec event_log_watch(name, binary | :all, non_neg_integer, pid) :: :ok | nil
  def event_log_watch(_name, _stream, _number, _pid), do: absent()

  # A bounded number of bytes a call, on a dirty scheduler, and where to go on.
  @spec event_log_read(
          name,
          binary | :all,
          from :: non_neg_integer,
          to :: non_neg_integer,
          limit :: non_neg_integer,
          :forward | :backward
        ) :: {[log_event], non_neg_integer | nil} | {:error, log_reason} | nil
  def event_log_read(_name, _stream, _from, _to, _limit, _direction), do: absent()

  @spec event_log_snapshot(name, binary) ::
          {:ok, non_neg_integer, term} | :none | {:error, log_reason} | nil
  def event_log_snapshot(_name, _stream), do: absent()

  @spec event_log_version(name, binary) :: non_neg_integer | nil
  def event_log_version(_name, _stream), do: absent()

  @spec event_log_position(name) :: non_neg_integer | nil
  def event_log_position(_name), do: absent()

  # A bounded number of names a call.
  @spec event_log_streams(name, cursor) :: {[binary], cursor | :done} | nil
  def event_log_streams(_name, _cursor), do: absent()

  # `{events, streams, bytes, position, commits, appends}`.
  @spec event_log_info(name) ::
          {non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer,
           non_neg_integer}
          | nil
  def event_log_info(_name), do: absent()

  # Reads every byte, on a dirty scheduler.
  @spec event_log_verify(name) :: [log_reason] | nil
  def event_log_verify(_name), do: absent()

  @spec event_log_backup(name, Path.t()) :: :ok | {:error, log_reason} | nil
  def event_log_backup(_name, _path), do: absent()

  ## Telemetry: one set of tables for the application

  @type event :: term
  @type event_totals ::
          {emitted :: non_neg_integer, suppressed :: non_neg_integer,
           sampled_out :: non_neg_integer, dropped :: non_neg_integer, pending :: non_neg_integer}

  # Opens the tables, or takes over those that a predecessor left behind. O(1).
  @spec telemetry_start(pos_integer, pos_integer, pos_integer, pos_integer, pos_integer) ::
          :created | :adopted | nil
  def telemetry_start(_max_windows, _max_pending, _window, _batch_size, _batch_timeout),
    do: absent()

  # From here on the tables take nothing in, and say so as if there were none; what is pending
  # can still be read and acknowledged.
  @spec telemetry_seal() :: :ok | nil
  def telemetry_seal, do: absent()

  # The owner's orderly stop: everything in the tables is gone after it. On a dirty scheduler.
  @spec telemetry_stop() :: :ok | nil
  def telemetry_stop, do: absent()

  @spec telemetry_started() :: boolean | nil
  def telemetry_started, do: absent()

  # While on, the hot functions below answer nil, and the caller looks for its backend.
  @spec telemetry_divert(boolean) :: :ok | nil
  def telemetry_divert(_on), do: absent()

  ## Telemetry: events. Cost: the encoding of what is passed, and O(1).

  # Decides one event: the window of `{event, key}`, then the event's strategy.
  @spec telemetry_admit(event, term, non_neg_integer | nil) :: :emit | :ok | nil
  def telemetry_admit(_event, _key, _window), do: absent()

  # `:first` made a batch begin, `:full` filled one: the caller tells the batch processor.
  @spec telemetry_append(event, map, map) :: :ok | :first | :full | nil
  def telemetry_append(_event, _measurements, _metadata), do: absent()

  # Counts a decision that was made elsewhere.
  @spec telemetry_count(event, :emitted | :suppressed | :sampled_out) :: :ok | nil
  def telemetry_count(_event, _outcome), do: absent()

  @spec telemetry_configure(event, integer | nil, integer | nil, integer | nil) :: :ok | nil
  def telemetry_configure(_event, _window, _batch_size, _batch_timeout), do: absent()

  # `{window, batch_size, batch_timeout}`, the event's own or the application's.
  @spec telemetry_settings(event) :: {non_neg_integer, pos_integer, pos_integer} | nil
  def telemetry_settings(_event), do: absent()

  @spec telemetry_totals(event) :: event_totals | nil
  def telemetry_totals(_event), do: absent()

  # A bounded number of events a call: name and totals; the first cursor is 0.
  @spec telemetry_events(non_neg_integer) ::
          {[{event, event_totals}], non_neg_integer | :done} | nil
  def telemetry_events(_cursor), do: absent()

  # `{windows, evicted}`
  @spec telemetry_windows() :: {non_neg_integer, non_neg_integer} | nil
  def telemetry_windows, do: absent()

  # The same of one event.
  @spec telemetry_own_windows([atom]) :: {non_neg_integer, non_neg_integer} | nil
  def telemetry_own_windows(_name), do: absent()

  # Closes expired windows, a bounded number a call; true while there are more.
  @spec telemetry_sweep() :: boolean | nil
  def telemetry_sweep, do: absent()

  # The events of a queue from `offset` on, oldest first, and how many are behind them: a
  # bounded number a call. Each with its age in nanoseconds.
  @spec telemetry_peek(event, non_neg_integer, pos_integer) ::
          {[{non_neg_integer, map, map}], non_neg_integer} | nil
  def telemetry_peek(_event, _offset, _limit), do: absent()

  # Takes `count` events off the front of a queue, as emitted; answers how many are left. The
  # background thread frees large terms.
  @spec telemetry_ack(event, non_neg_integer) :: non_neg_integer | nil
  def telemetry_ack(_event, _count), do: absent()

  ## Telemetry: strategies. O(1) a decision.

  @spec sampler_configure(event, term) :: :ok | {:error, :system_limit} | nil
  def sampler_configure(_event, _strategy), do: absent()

  @spec sampler_decide(event) :: boolean | nil
  def sampler_decide(_event), do: absent()

  # `{sampled, sampled_out, strategy}`
  @spec sampler_stats(event) :: {non_neg_integer, non_neg_integer, term} | nil
  def sampler_stats(_event), do: absent()

  @spec sampler_events(non_neg_integer) ::
          {[{event, {non_neg_integer, non_neg_integer, term}}], non_neg_integer | :done} | nil
  def sampler_events(_cursor), do: absent()

  @spec sampler_reset() :: :ok | nil
  def sampler_reset, do: absent()

  ## Telemetry: the calling process's spans. O(1), and the encoding of what is passed or read.

  @type span ::
          {name :: term, span_id :: binary, parent_id :: binary | nil, trace_id :: binary,
           flags :: byte, attributes :: map, events :: [map], links :: [map],
           duration :: non_neg_integer, ended_at :: integer}

  # With the trace's flags, and Erlang's system and monotonic time in nanoseconds.
  @spec span_start(term, map) ::
          {binary, binary | nil, binary, flags :: byte, integer, integer} | nil
  def span_start(_name, _attributes), do: absent()

  # The innermost span, or the one of an id.
  @spec span_finish(binary | nil) :: span | :error | nil
  def span_finish(_id), do: absent()

  @spec span_current() ::
          {:span, span, tracestate :: binary | nil}
          | {:remote, binary, binary, byte, tracestate :: binary | nil}
          | :none
          | nil
  def span_current, do: absent()

  # Of any process of this node.
  @spec span_finish_of(pid, binary) :: span | :error | nil
  def span_finish_of(_pid, _id), do: absent()

  @spec span_current_of(pid) :: {:remote, binary, binary, byte, binary | nil} | :none | nil
  def span_current_of(_pid), do: absent()

  @spec span_put_attributes(map) :: :ok | :error | nil
  def span_put_attributes(_attributes), do: absent()

  @spec span_add_event(map) :: :ok | :error | nil
  def span_add_event(_event), do: absent()

  @spec span_add_link(map) :: :ok | :error | nil
  def span_add_link(_link), do: absent()

  # Answers the mark to leave the context by.
  @spec span_enter(binary, binary, byte, tracestate :: binary | nil) :: non_neg_integer | nil
  def span_enter(_trace_id, _span_id, _flags, _tracestate), do: absent()

  # The spans that were left open, a bounded number a call, and whether that was all.
  @spec span_leave(non_neg_integer) :: {[span], boolean} | nil
  def span_leave(_mark), do: absent()

  # The process gets `{:foundation_spans, :abandoned}`, one outstanding at most.
  @spec span_watch(pid) :: :ok | nil
  def span_watch(_pid), do: absent()

  # Abandoned spans, a bounded number a call, and whether that is all. They stay until each is
  # forgotten.
  @spec span_abandoned() :: {[span], boolean, dropped :: non_neg_integer} | nil
  def span_abandoned, do: absent()

  # Forgets the first abandoned span after its event, if it is still this one.
  @spec span_forget(binary) :: boolean | nil
  def span_forget(_id), do: absent()

  ## Resilience: instances. A target is an instance's name or `{name, key}`.

  @type target :: name | {name, key :: term}
  @type instance_kind :: :bulkhead | :circuit_breaker | :rate_limiter
  @type instance_started :: :created | :adopted | {:error, {:already_started, pid}} | limit | nil
  # `{state, calls, failures, slow, open_ms}`
  @type transition ::
          {atom, non_neg_integer, non_neg_integer, non_neg_integer, non_neg_integer}
  # Where a key's state stands in a walk over an instance.
  @type place :: :bare | {:key, term}

  # The owner's orderly stop: the instance is gone after it.
  @spec resilience_stop(name) :: :ok | nil
  def resilience_stop(_name), do: absent()

  @spec resilience_owner(name) :: {instance_kind, pid} | nil
  def resilience_owner(_name), do: absent()

  @spec resilience_names() :: [{name, instance_kind}]
  def resilience_names, do: absent() || []

  ## Resilience: bulkheads. O(1), but for a resize, which looks at each waiter.

  @spec bulkhead_start(
          name,
          pos_integer,
          non_neg_integer,
          timeout,
          :fifo | :lifo,
          pos_integer,
          timeout
        ) :: instance_started
  def bulkhead_start(_name, _max, _queue, _wait, _order, _max_keys, _adopt_timeout),
    do: absent()

  # A wait of `nil` is the instance's. `{:wait, ms}`: ask again by `bulkhead_wait/3`.
  @spec bulkhead_acquire(target, pos_integer, timeout | nil) ::
          (id :: pos_integer) | {:wait, timeout} | atom
  def bulkhead_acquire(_target, _weight, _wait), do: absent()

  # The caller gets `{reference, :granted | :refused}` if it waits.
  @spec bulkhead_wait(target, pos_integer, reference) ::
          (id :: pos_integer) | {:waits, id :: pos_integer} | atom
  def bulkhead_wait(_target, _weight, _reference), do: absent()

  @spec bulkhead_cancel(target, pos_integer) ::
          :cancelled | :granted | :refused | :unknown | nil
  def bulkhead_cancel(_target, _id), do: absent()

  @spec bulkhead_release(target, pid, pos_integer) :: :ok | nil
  def bulkhead_release(_target, _pid, _id), do: absent()

  @spec bulkhead_resize(target, pos_integer) :: :ok | :max_keys | :system_limit | nil
  def bulkhead_resize(_target, _max), do: absent()

  # `{max, in_use, waiting, granted, rejected, timed_out, reclaimed}`
  @spec bulkhead_info(target) :: tuple | nil
  def bulkhead_info(_target), do: absent()

  # Those with no permit left, a bounded number a call; the first cursor is 0.
  @spec bulkhead_full(name, non_neg_integer) :: {[place], non_neg_integer | :done} | nil
  def bulkhead_full(_name, _cursor), do: absent()

  ## Resilience: circuit breakers. O(1). Where a call changes the state, its answer is
  ## `{:changed, answer, [transition]}`, and the caller emits the events.

  @spec breaker_start(name, list, term, pos_integer, timeout) :: instance_started
  def breaker_start(_name, _settings, _classify, _max_keys, _adopt_timeout), do: absent()

  @spec breaker_ask(target) ::
          (id :: pos_integer) | {:open, non_neg_integer} | {:changed, term, [transition]} | atom
  def breaker_ask(_target), do: absent()

  @spec breaker_record(target, pid, pos_integer, :ok | :error | :ignore) ::
          :ok | {:changed, :ok, [transition]} | nil
  def breaker_record(_target, _pid, _id, _outcome), do: absent()

  @spec breaker_state(target) :: :closed | :open | :half_open | :isolated | nil
  def breaker_state(_target), do: absent()

  # `{state, calls, failures, slow, retry_after_ms, rejected, opened, probes}`
  @spec breaker_info(target) :: tuple | nil
  def breaker_info(_target), do: absent()

  @spec breaker_isolate(target) :: :ok | {:changed, :ok, [transition]} | atom
  def breaker_isolate(_target), do: absent()

  @spec breaker_reset(target) :: :ok | {:changed, :ok, [transition]} | nil
  def breaker_reset(_target), do: absent()

  # What the instance was started with, or `:default`.
  @spec breaker_classify(target) :: term
  def breaker_classify(_target), do: absent()

  # What deaths have changed. The owner gets `{:foundation_resilience, :transitions}`, one
  # outstanding at most.
  @spec breaker_take_transitions(name) :: [{place, transition}] | nil
  def breaker_take_transitions(_name), do: absent()

  # Those that are not closed, a bounded number a call; the first cursor is 0.
  @spec breaker_tripped(name, non_neg_integer) ::
          {[{place, atom}], non_neg_integer | :done} | nil
  def breaker_tripped(_name, _cursor), do: absent()

  ## Resilience: rate limiters. O(slices of a window), 257 at most.

  @type cost :: non_neg_integer | [{atom, non_neg_integer}]

  @spec limiter_start(name, atom, [{atom, pos_integer, pos_integer}], pos_integer, timeout) ::
          instance_started
  def limiter_start(_name, _algorithm, _limits, _max_keys, _adopt_timeout), do: absent()

  # `{:wait, ms}`: the slot is the caller's, so many milliseconds from now.
  @spec limiter_take(target, cost, timeout) ::
          :ok | {:wait, pos_integer} | {:limited, pos_integer} | {:bad_cost, [atom]} | atom
  def limiter_take(_target, _cost, _wait), do: absent()

  @spec limiter_reserve(target, cost, timeout) ::
          {:reserved, slot :: non_neg_integer, non_neg_integer}
          | {:limited, pos_integer}
          | {:bad_cost, [atom]}
          | atom
  def limiter_reserve(_target, _cost, _wait), do: absent()

  @spec limiter_settle(target, non_neg_integer, cost, cost) :: :ok | {:bad_cost, [atom]} | nil
  def limiter_settle(_target, _slot, _reserved, _actual), do: absent()

  # `{[{name, limit, per_ms, used, available, reset_ms}], taken, rejected}`
  @spec limiter_info(target) :: {[tuple], non_neg_integer, non_neg_integer} | nil
  def limiter_info(_target), do: absent()

  ## Caches. O(1), but for what is said. Times are in milliseconds.

  @type lease :: pos_integer

  # Makes a cache, or sets the limits of the one with this name.
  @spec cache_open(name, pos_integer, pos_integer | :infinity, number, timeout) ::
          :created | :adopted | :system_limit | nil
  def cache_open(_name, _max_bytes, _max_entries, _early, _load_timeout), do: absent()

  @spec cache_stop(name) :: :ok | nil
  def cache_stop(_name), do: absent()

  @spec cache_names() :: [name]
  def cache_names, do: absent() || []

  @spec cache_get(name, term) :: {:ok, term} | :error | nil
  def cache_get(_name, _key), do: absent()

  # An `early` of `nil` is the cache's own. A waiter gets `{:foundation_cache, id, answer}`.
  @spec cache_begin(name, term, number | nil) ::
          {:ok, term}
          | {:error, term}
          | {:load, lease}
          | {:wait, id :: pos_integer}
          | :recursion
          | :system_limit
          | nil
  def cache_begin(_name, _key, _early), do: absent()

  @spec cache_begin_again(name, term, number | nil) ::
          {:ok, term}
          | {:error, term}
          | {:load, lease}
          | {:wait, id :: pos_integer}
          | :recursion
          | :system_limit
          | nil
  def cache_begin_again(_name, _key, _early), do: absent()

  @spec cache_cancel(name, pos_integer) :: :cancelled | :answered | nil
  def cache_cancel(_name, _id), do: absent()

  @spec cache_finish(name, term, lease, tuple) :: :stored | :not_stored | nil
  def cache_finish(_name, _key, _lease, _outcome), do: absent()

  # O(entries that make room).
  @spec cache_put(name, term, term, timeout, timeout) :: :ok | :system_limit | nil
  def cache_put(_name, _key, _value, _ttl, _stale), do: absent()

  @spec cache_delete(name, term) :: :ok | nil
  def cache_delete(_name, _key), do: absent()

  @spec cache_clear(name) :: :ok | :system_limit | nil
  def cache_clear(_name), do: absent()

  @spec cache_expire(name) :: :ok | :system_limit | nil
  def cache_expire(_name), do: absent()

  @spec cache_size(name) :: non_neg_integer | nil
  def cache_size(_name), do: absent()

  # `{hits, misses, loads, load_errors, stale_hits, evicted, expired, rejected, entries, bytes}`
  @spec cache_stats(name) :: tuple | nil
  def cache_stats(_name), do: absent()

  @spec cache_walk(name, non_neg_integer) :: {[{term, term}], non_neg_integer | :done} | nil
  def cache_walk(_name, _cursor), do: absent()
end
