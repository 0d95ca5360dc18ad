defmodule Foundation.EventLog do
  alias Foundation.EventLog.{Event, Owner, Reader, Settings}
  alias Foundation.EventLog.{Subscription, Subscriptions, SubscriptionServer, Writer}
  alias Foundation.{Native, Options}

  @moduledoc """
  An embedded, durable event log: every append that was acknowledged survives a crash.

      children = [{Foundation.EventLog, name: MyApp.Log, dir: "/var/lib/my_app/log"}]

      {:ok, 1} = EventLog.append(MyApp.Log, "account-1", [{:deposited, 100}], expected: :none)
      [event] = EventLog.read(MyApp.Log, "account-1")
      %Foundation.EventLog.Event{type: :deposited, data: 100} = event

  A log is a directory. Events belong to streams; a stream has versions, the log has positions, and
  both count from 1 without gaps. The guide [Durable events](event_log.html) builds an application
  on it. `Foundation.EventLog.Aggregate` is a process whose state is the events of a stream.

  Appends and reads pass through no Elixir process. One native thread for each log collects the
  appends of all callers, writes them with one `fsync`, and answers each by a message. The log needs
  the native engine: without it `start_link/1` returns `{:error, {:engine, cause}}`.

  ## Options

    * `:name` - an atom, under which the log is called. Required.
  #{Options.docs(Settings.schema())}

  ## Consistency

    * `:ok` means durable: the events were synced before the append returned. With
      `sync: {:interval, ms}` a power cut may take the appends of the last interval, and only those.
    * All events of an append are there, or none.
    * Appends to the log have one order, that of the positions. A reader that sees an event sees
      every event before it.
    * `:expected` is checked at the commit: of two appends that expect the same version one fails.
    * A read sees every append that returned before it began.
    * A subscription delivers in order and at least once.

  When the owner process is killed the log stays open for its successor, and calls go on. A
  supervisor's stop commits what is waiting and closes the log. Then calls raise `ArgumentError`.

  ## Damage

  A crash can leave the last frames of the last file half written. They were never acknowledged: the
  next start cuts them and emits `[:foundation, :event_log, :recover]`. Any other damage is refused:
  `start_link/1` returns `{:error, {:damaged, path, {kind, offset}}}`, and a read raises
  `Foundation.EventLog.ReadError`. A kind is one of `:checksum`, `:truncated`, `:missing`,
  `:misplaced`, `:not_a_segment`, `:unsupported_version` and `:undecodable`.

  ## Telemetry events

  | event | measurements | metadata |
  |---|---|---|
  | `[:foundation, :event_log, :commit]` | `:duration` (native unit), `:appends`, `:events`, `:bytes` | `:log` |
  | `[:foundation, :event_log, :recover]` | `:cut_bytes` | `:log`, `:path` |
  | `[:foundation, :event_log, :damaged]` | `:count` (1) | `:log`, `:path`, `:reason` |

  One caller of each commit emits `:commit`, before its call returns. `:recover` is emitted at each
  start after the log was not closed in order.

  ## Examples

  In the examples below `start_log/0` starts an empty log and returns its name.
  """

  @type log :: atom
  @type stream :: String.t()
  @type type :: atom | String.t()
  @type new_event :: {type, data :: term} | {type, data :: term, metadata :: map}
  @type expected :: :any | :none | :exists | non_neg_integer
  @type io_error :: {:io, posix :: atom}
  @type damage ::
          {:damaged, Path.t(), {kind :: atom, offset :: non_neg_integer}}

  @doc """
  Starts a log: opens its directory, or makes it.

  **Cost:** reads the newest segment, and the index files of the others (1 million events of 200
  bytes open in less than a second).

  Errors: `{:error, {:already_started, pid}}`, `{:error, {:in_use, dir}}` when another process of
  the system has the directory open, `{:error, {:damaged, path, {kind, offset}}}`, `{:error,
  {:io, posix}}`, `{:error, {:engine, cause}}` without the native library. Raises `ArgumentError` for a
  wrong option.

      iex> dir = Path.join(System.tmp_dir!(), Foundation.RequestContext.new_request_id())
      iex> {:ok, _pid} = Foundation.EventLog.start_link(name: Docs.Started, dir: dir)
      iex> Foundation.EventLog.version(Docs.Started, "account-1")
      0
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options), do: options |> Settings.validate!() |> Owner.start_link()

  @doc """
  Returns a child specification whose id is the log's name.

  Its `:shutdown` is 30 seconds, in which an orderly stop commits what is waiting.

      iex> Foundation.EventLog.child_spec(name: Docs.Log, dir: "/tmp/log").id
      Docs.Log
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options) do
    %{
      id: Keyword.get(options, :name, __MODULE__),
      start: {__MODULE__, :start_link, [options]},
      shutdown: 30_000
    }
  end

  @doc """
  Appends events to a stream, and returns the stream's version when they are durable.

  An event is `{type, data}` or `{type, data, metadata}`: a type is an atom or a string, data is any
  term, metadata is a map. `:expected` is the version that the stream must have: `:any` (default),
  `:none` (no event was ever appended), `:exists`, or a number. A deleted stream keeps its
  version. An empty list checks the version and appends nothing.

  **Cost:** one `fsync`, which all callers of the moment share.

  Errors: `{:error, {:wrong_version, actual}}`; `{:error, {:io, posix}}` such as `{:io, :enospc}`:
  then nothing was appended, and the log goes on. Raises `ArgumentError` for an unknown log, and for
  an event above `:max_event_bytes`.

      iex> log = start_log()
      iex> Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}, {:deposited, 100}])
      {:ok, 2}
      iex> Foundation.EventLog.append(log, "account-1", [{:opened, "Bob"}], expected: :none)
      {:error, {:wrong_version, 2}}
  """
  @doc since: "0.1.0"
  @spec append(log, stream, [new_event], expected: expected) ::
          {:ok, version :: non_neg_integer}
          | {:error, {:wrong_version, actual :: non_neg_integer} | io_error}
  def append(log, stream, events, options \\ []) do
    check!(log, stream)
    expected = expected!(options, :append)
    Writer.append(log, stream, expected, Writer.encode!(events))
  end

  @doc """
  Returns the events of a stream, or of the whole log with `:all`.

    * `:from` - the first version (of `:all`: position), which is included. By default 1, or the
      end when reading backward.
    * `:limit` - how many events at most (1,000).
    * `:direction` - `:forward` (default) or `:backward`.

  **Cost:** O(events), on a dirty I/O scheduler. Raises `ArgumentError` for an unknown log and
  `Foundation.EventLog.ReadError` for a damaged event.

      iex> log = start_log()
      iex> {:ok, 2} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}, {:deposited, 100}])
      iex> for event <- Foundation.EventLog.read(log, "account-1"), do: {event.version, event.data}
      [{1, "Ada"}, {2, 100}]
      iex> [last] = Foundation.EventLog.read(log, :all, direction: :backward, limit: 1)
      iex> last.type
      :deposited
  """
  @doc since: "0.1.0"
  @spec read(log, stream | :all,
          from: pos_integer,
          limit: non_neg_integer,
          direction: :forward | :backward
        ) :: [Event.t()]
  def read(log, stream, options \\ []) do
    check!(log, stream)
    options = options!(options, [from: nil, limit: 1_000, direction: :forward], :read)
    direction = member!(options[:direction], [:forward, :backward], :direction)
    default = if direction == :forward, do: 1, else: Reader.last()
    from = positive!(options[:from] || default, :from)
    Reader.read(log, stream, from, natural!(options[:limit], :limit), direction)
  end

  @doc """
  Returns the events of a stream, or of the whole log with `:all`, lazily.

  `:from` is the first version or position (1); `:chunk` is how many events are read at once (500).
  The enumeration ends with the event that is the last one when it starts. An event that is
  removed meanwhile is left out.

  **Cost:** the memory of one chunk. Errors as `read/3`.

      iex> log = start_log()
      iex> {:ok, 3} = Foundation.EventLog.append(log, "steps", [{:step, 1}, {:step, 2}, {:step, 3}])
      iex> log |> Foundation.EventLog.stream("steps") |> Enum.map(& &1.data) |> Enum.sum()
      6
  """
  @doc since: "0.1.0"
  @spec stream(log, stream | :all, from: pos_integer, chunk: pos_integer) :: Enumerable.t()
  def stream(log, stream, options \\ []) do
    check!(log, stream)
    options = options!(options, [from: 1, chunk: 500], :stream)

    Reader.stream(
      log,
      stream,
      positive!(options[:from], :from),
      positive!(options[:chunk], :chunk)
    )
  end

  @doc """
  Returns the version of a stream: that of the last event ever appended, 0 if there was none.

  **Cost:** O(1), no I/O. Raises `ArgumentError` for an unknown log.

      iex> Foundation.EventLog.version(start_log(), "account-1")
      0
  """
  @doc since: "0.1.0"
  @spec version(log, stream) :: non_neg_integer
  def version(log, stream) do
    check_stream!(log, stream)
    Reader.newest(log, stream)
  end

  @doc """
  Returns the names of the streams, lazily, without the deleted ones.

  A stream that begins or is deleted meanwhile may be among them or not.

  **Cost:** O(streams), 1,000 names at once. Raises `ArgumentError` for an unknown log.

      iex> log = start_log()
      iex> {:ok, 1} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}])
      iex> log |> Foundation.EventLog.streams() |> Enum.to_list()
      ["account-1"]
  """
  @doc since: "0.1.0"
  @spec streams(log) :: Enumerable.t()
  def streams(log) do
    known!(log)
    Reader.streams(log)
  end

  @doc """
  Returns the figures of a log.

    * `:events` - stored events.
    * `:streams` - streams, without the deleted ones.
    * `:bytes` - bytes of the files.
    * `:position` - the position of the last event.
    * `:commits` - commits since the log was opened; each has one `fsync`.
    * `:appends` - appends of events since the log was opened.

  **Cost:** O(files). Raises `ArgumentError` for an unknown log.

      iex> log = start_log()
      iex> {:ok, 1} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}])
      iex> %{events: 1, streams: 1, position: 1, commits: 1, appends: 1} = Foundation.EventLog.info(log)
  """
  @doc since: "0.1.0"
  @spec info(log) :: %{
          events: non_neg_integer,
          streams: non_neg_integer,
          bytes: non_neg_integer,
          position: non_neg_integer,
          commits: non_neg_integer,
          appends: non_neg_integer
        }
  def info(log) do
    known!(log)

    {events, streams, bytes, position, commits, appends} =
      Native.event_log_info(log) || Writer.unknown!(log)

    %{
      events: events,
      streams: streams,
      bytes: bytes,
      position: position,
      commits: commits,
      appends: appends
    }
  end

  @doc """
  Stores the state of a stream at a version, durably. Only the newest one is kept.

  A version below the stored one is ignored. The state is any term of up to 500 MB.

  **Cost:** one `fsync`, shared with appends. Errors: `{:error, {:io, posix}}`. Raises
  `ArgumentError` for an unknown log.

      iex> log = start_log()
      iex> :ok = Foundation.EventLog.put_snapshot(log, "account-1", 2, %{balance: 100})
      iex> Foundation.EventLog.get_snapshot(log, "account-1")
      {:ok, 2, %{balance: 100}}
  """
  @doc since: "0.1.0"
  @spec put_snapshot(log, stream, non_neg_integer, term) :: :ok | {:error, io_error}
  def put_snapshot(log, stream, version, state) do
    check_stream!(log, stream)
    log |> Writer.put_snapshot(stream, natural!(version, :version), state) |> done()
  end

  @doc """
  Returns the newest snapshot of a stream as `{:ok, version, state}`, or `:error` if there is none.

  **Cost:** one read, on a dirty I/O scheduler. Raises as `read/3` does.

      iex> Foundation.EventLog.get_snapshot(start_log(), "account-1")
      :error
  """
  @doc since: "0.1.0"
  @spec get_snapshot(log, stream) :: {:ok, version :: non_neg_integer, state :: term} | :error
  def get_snapshot(log, stream) do
    check_stream!(log, stream)
    Reader.snapshot(log, stream)
  end

  @doc """
  Subscribes the calling process to a stream, or to the whole log with `:all`.

  The process gets `{:events, subscription, [event]}` messages: first the events that are there,
  then each new one. It acknowledges with `ack/2`; the subscription's position is durable, and the
  next `subscribe/4` under the same name resumes after it. Events that were sent and not
  acknowledged are sent again then. `name` is an atom or a string, unique in the log.

    * `:from` - where a new subscription begins: `:start` (default), `:end`, or a version (of
      `:all`: position), which is included.
    * `:max_in_flight` - how many events are sent ahead of `ack/2` (100).

  A subscription ends with its process, or when the log is stopped in order. Crashes and kills of
  the log's owner and of the library's own processes leave it in place: events that were not
  acknowledged can come again.

  **Cost:** a process; one `fsync` for a new name. Errors: `{:error, {:already_subscribed, pid}}`
  while another process has the name, `{:error, {:io, posix}}`. Raises `ArgumentError` for an
  unknown log, and for a name that follows another stream.

      iex> log = start_log()
      iex> {:ok, 1} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}])
      iex> {:ok, subscription} = Foundation.EventLog.subscribe(log, :all, :projection)
      iex> receive do {:events, ^subscription, [event]} -> Foundation.EventLog.ack(subscription, event) end
      :ok
  """
  @doc since: "0.1.0"
  @spec subscribe(log, stream | :all, name :: atom | String.t(),
          from: :start | :end | pos_integer,
          max_in_flight: pos_integer
        ) :: {:ok, Subscription.t()} | {:error, {:already_subscribed, pid} | io_error}
  def subscribe(log, stream, name, options \\ []) do
    check!(log, stream)
    name = subscription_name!(name)
    options = options!(options, [from: :start, max_in_flight: 100], :subscribe)
    from = start_after!(options[:from])
    max_in_flight = positive!(options[:max_in_flight], :max_in_flight)
    known!(log)

    subscription = %Subscription{
      log: log,
      stream: stream,
      name: name,
      id: :erlang.alias([:reply])
    }

    {:ok, server} = Subscriptions.start_server({subscription, self(), from, max_in_flight})
    subscribed(subscription, Process.monitor(server))
  end

  defp subscribed(%Subscription{id: id} = subscription, monitor) do
    receive do
      {^id, :subscribed} ->
        Process.demonitor(monitor, [:flush])
        {:ok, subscription}

      {^id, {:error, reason}} ->
        Process.demonitor(monitor, [:flush])
        refused(subscription, reason)

      # It was killed, and its successor answers.
      {:DOWN, ^monitor, :process, _pid, _reason} ->
        receive do
          {^id, :subscribed} -> {:ok, subscription}
          {^id, {:error, reason}} -> refused(subscription, reason)
        after
          5_000 -> exit({:timeout, {__MODULE__, :subscribe, subscription.name}})
        end
    end
  end

  defp refused(subscription, :unknown_log), do: Writer.unknown!(subscription.log)

  defp refused(subscription, :other_stream) do
    raise ArgumentError,
          "expected the subscription #{inspect(subscription.name)} to follow the stream that it " <>
            "has followed before, got: #{inspect(subscription.stream)}"
  end

  defp refused(_subscription, reason), do: {:error, reason}

  @doc """
  Acknowledges an event of a subscription, and all events before it.

  It is durable within a second, and when the log is stopped in order. Any process may call it.

  **Cost:** O(1), no I/O. Raises `ArgumentError` for an unknown log, and for an event of another
  stream.

      iex> log = start_log()
      iex> {:ok, 1} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}])
      iex> {:ok, subscription} = Foundation.EventLog.subscribe(log, "account-1", "mailer")
      iex> receive do {:events, ^subscription, [event]} -> Foundation.EventLog.ack(subscription, event) end
      :ok
  """
  @doc since: "0.1.0"
  @spec ack(Subscription.t(), Event.t()) :: :ok
  def ack(%Subscription{log: log, stream: stream, name: name}, %Event{} = event) do
    unless stream in [:all, event.stream] do
      raise ArgumentError,
            "expected an event of the stream #{inspect(stream)}, got one of #{inspect(event.stream)}"
    end

    number = SubscriptionServer.number(stream, event)

    case Native.event_log_ack(log, Subscription.key(name), number) do
      :ok -> :ok
      nil -> Writer.unknown!(log)
      server -> notify(server)
    end
  end

  defp notify(server) do
    send(server, {:foundation_event_log, :acknowledged})
    :ok
  end

  @doc """
  Ends a subscription, and keeps its position for the next `subscribe/4` under its name.

  Events that were sent before may still be in the mailbox. `:ok` also where it has ended already.

      iex> {:ok, subscription} = Foundation.EventLog.subscribe(start_log(), :all, :projection)
      iex> Foundation.EventLog.unsubscribe(subscription)
      :ok
  """
  @doc since: "0.1.0"
  @spec unsubscribe(Subscription.t()) :: :ok
  def unsubscribe(%Subscription{log: log, name: name, id: id}) do
    stop_server(log, Subscription.key(name), id)
  end

  @doc """
  Forgets a subscription and its position, and ends it if it is live.

  **Cost:** one `fsync`. Errors: `{:error, {:io, posix}}`. Raises `ArgumentError` for an unknown
  log.

      iex> log = start_log()
      iex> {:ok, _subscription} = Foundation.EventLog.subscribe(log, :all, :projection)
      iex> Foundation.EventLog.delete_subscription(log, :projection)
      :ok
  """
  @doc since: "0.1.0"
  @spec delete_subscription(log, name :: atom | String.t()) :: :ok | {:error, io_error}
  def delete_subscription(log, name) do
    known!(log)
    key = name |> subscription_name!() |> Subscription.key()
    stop_server(log, key, :any)
    log |> Writer.forget(key) |> done()
  end

  defp stop_server(log, key, id), do: Subscriptions.stop_server(log, key, id)

  @doc """
  Deletes a stream: its events and its snapshot.

  Its version stays, and positions and versions are never used again: a later append goes on
  after it. `:expected` is as in `append/4`. The disk space is given back in the background.

  **Cost:** one `fsync`, and O(events of the stream) without I/O.

  Errors: as `append/4`.

      iex> log = start_log()
      iex> {:ok, 1} = Foundation.EventLog.append(log, "account-1", [{:opened, "Ada"}])
      iex> Foundation.EventLog.delete_stream(log, "account-1", expected: 1)
      :ok
      iex> {Foundation.EventLog.read(log, :all), Foundation.EventLog.version(log, "account-1")}
      {[], 1}
  """
  @doc since: "0.1.0"
  @spec delete_stream(log, stream, expected: expected) ::
          :ok | {:error, {:wrong_version, actual :: non_neg_integer} | io_error}
  def delete_stream(log, stream, options \\ []) do
    check_stream!(log, stream)
    log |> Writer.delete(stream, expected!(options, :delete_stream)) |> done()
  end

  @doc """
  Removes the events of a stream whose versions are below `:before`.

  Versions and positions stay as they are. The disk space is given back in the background: a file
  is written anew when more than half of it was removed.

  **Cost:** one `fsync`, and O(removed events) without I/O. Errors: `{:error, {:io, posix}}`.

      iex> log = start_log()
      iex> {:ok, 3} = Foundation.EventLog.append(log, "steps", [{:step, 1}, {:step, 2}, {:step, 3}])
      iex> :ok = Foundation.EventLog.trim(log, "steps", before: 3)
      iex> for event <- Foundation.EventLog.read(log, "steps"), do: event.version
      [3]
  """
  @doc since: "0.1.0"
  @spec trim(log, stream, before: pos_integer) :: :ok | {:error, io_error}
  def trim(log, stream, options) do
    check_stream!(log, stream)
    options = options!(options, [before: nil], :trim)
    log |> Writer.trim(stream, positive!(options[:before], :before)) |> done()
  end

  @doc """
  Copies the log, as it is now, into a new directory, which opens as a log of its own.

  Appends go on meanwhile. The directory has its name once the copy is whole and durable.

  **Cost:** a read and a write of the whole log. Errors: `{:error, {:io, :eexist}}` if there is
  something at `path`, `{:error, {:io, posix}}`, `{:error, {:damaged, path, {kind, offset}}}`.

      iex> copy = Path.join(System.tmp_dir!(), Foundation.RequestContext.new_request_id())
      iex> Foundation.EventLog.backup(start_log(), copy)
      :ok
  """
  @doc since: "0.1.0"
  @spec backup(log, Path.t()) :: :ok | {:error, io_error | damage}
  def backup(log, path) do
    known!(log)

    unless is_binary(path) do
      raise ArgumentError, "expected the path of a backup to be a string, got: #{inspect(path)}"
    end

    case Native.event_log_backup(log, Path.expand(path)) do
      nil -> Writer.unknown!(log)
      {:error, {:damaged, file, damage}} = error -> report(log, [{:damaged, file, damage}], error)
      result -> result
    end
  end

  @doc """
  Reads every byte of the log, and returns `:ok`, or `{:error, reasons}` with every damage found.

  **Cost:** a read of the whole log, on a dirty I/O scheduler. Appends and reads go on.

      iex> Foundation.EventLog.verify(start_log())
      :ok
  """
  @doc since: "0.1.0"
  @spec verify(log) :: :ok | {:error, [damage | io_error, ...]}
  def verify(log) do
    known!(log)

    case Native.event_log_verify(log) do
      nil -> Writer.unknown!(log)
      [] -> :ok
      reasons -> report(log, reasons, {:error, reasons})
    end
  end

  defp report(log, reasons, result) do
    for {:damaged, path, reason} <- reasons, do: Owner.report_damage(log, path, reason)
    result
  end

  defp done({:ok, _number}), do: :ok
  defp done({:error, _reason} = error), do: error

  defp known!(log) do
    unless is_atom(log) and Native.event_log_owner(log) != nil, do: Writer.unknown!(log)
  end

  defp check!(log, :all), do: known!(log)
  defp check!(log, stream), do: check_stream!(log, stream)

  defp check_stream!(log, stream) do
    unless is_atom(log), do: Writer.unknown!(log)

    unless is_binary(stream) and byte_size(stream) in 1..255 do
      raise ArgumentError,
            "expected a stream to be a string of 1 to 255 bytes, got: #{inspect(stream)}"
    end
  end

  defp expected!(options, function) do
    case options!(options, [expected: :any], function)[:expected] do
      expected when expected in [:any, :none, :exists] ->
        expected

      version when is_integer(version) and version >= 0 ->
        version

      other ->
        raise ArgumentError,
              "expected :expected to be :any, :none, :exists or a version, got: #{inspect(other)}"
    end
  end

  defp start_after!(:start), do: 0
  defp start_after!(:end), do: :end
  defp start_after!(number) when is_integer(number) and number > 0, do: number - 1

  defp start_after!(other) do
    raise ArgumentError,
          "expected :from to be :start, :end or a positive integer, got: #{inspect(other)}"
  end

  defp subscription_name!(name) when is_atom(name), do: name
  defp subscription_name!(name) when is_binary(name) and byte_size(name) in 1..255, do: name

  defp subscription_name!(other) do
    raise ArgumentError,
          "expected the name of a subscription to be an atom or a string of 1 to 255 bytes, " <>
            "got: #{inspect(other)}"
  end

  defp options!(options, defaults, function) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of #{function} to be a keyword list, got: #{inspect(options)}"
    end

    for {key, _value} <- options, not Keyword.has_key?(defaults, key) do
      raise ArgumentError, Options.unknown(key, defaults, "the options of #{function}")
    end

    Keyword.merge(defaults, options)
  end

  defp positive!(number, _key) when is_integer(number) and number > 0, do: number

  defp positive!(other, key) do
    raise ArgumentError,
          "expected #{inspect(key)} to be a positive integer, got: #{inspect(other)}"
  end

  defp natural!(number, _key) when is_integer(number) and number >= 0, do: number

  defp natural!(other, key) do
    raise ArgumentError,
          "expected #{inspect(key)} to be a non-negative integer, got: #{inspect(other)}"
  end

  defp member!(value, values, key) do
    if value in values do
      value
    else
      raise ArgumentError,
            "expected #{inspect(key)} to be one of #{inspect(values)}, got: #{inspect(value)}"
    end
  end
end
