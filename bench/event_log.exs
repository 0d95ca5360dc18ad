defmodule Bench.EventLog do
  @moduledoc false
  # A durable log against OTP's disk_log, which has one process and no index, and against a store of
  # files. Both sides sync: a row says how much of a commit is anything else than the disk's time,
  # and how many callers share one.

  alias Bench.Row
  alias Foundation.EventLog
  alias Foundation.EventLog.Aggregate

  @data String.duplicate("x", 200)
  @events 1_000_000

  defmodule DiskLog do
    @moduledoc false
    # A log as it is built from OTP: a process that appends and syncs.
    use GenServer

    def start_link(file), do: GenServer.start_link(__MODULE__, file)
    def append(server, term), do: GenServer.call(server, {:append, term}, :infinity)

    @impl true
    def init(file) do
      {:ok, log} = :disk_log.open(name: make_ref(), file: String.to_charlist(file))
      {:ok, {log, 0}}
    end

    @impl true
    def handle_call({:append, term}, _from, {log, version}) do
      :ok = :disk_log.log(log, term)
      :ok = :disk_log.sync(log)
      {:reply, {:ok, version + 1}, {log, version + 1}}
    end

    @impl true
    def terminate(_reason, {log, _version}), do: :disk_log.close(log)
  end

  defmodule Counter do
    @moduledoc false
    use Foundation.EventLog.Aggregate

    @impl true
    def init(_id), do: 0
    @impl true
    def handle_command({:append, data}, _count), do: {:ok, [{:appended, data}]}
    @impl true
    def apply_event(_event, count), do: count + 1
  end

  defmodule Files do
    @moduledoc false
    # A store of files: it reads the stream, appends to it, syncs, and writes the metadata anew.

    def append(dir, event) do
      path = Path.join(dir, "stream")
      entries = path |> File.read!() |> entries([])
      {:ok, file} = :file.open(path, [:append, :raw, :binary])
      binary = :erlang.term_to_binary(event)
      :ok = :file.write(file, [<<byte_size(binary)::32>>, binary])
      :ok = :file.sync(file)
      :ok = :file.close(file)
      version = length(entries) + 1
      File.write!(Path.join(dir, "meta"), :erlang.term_to_binary(%{version: version}))
      {:ok, version}
    end

    defp entries(<<size::32, binary::binary-size(size), rest::binary>>, entries),
      do: entries(rest, [:erlang.binary_to_term(binary) | entries])

    defp entries("", entries), do: entries
  end

  def rows do
    [
      %Row{
        name: :log_append,
        what: "append durably, by so many callers",
        theirs: "`disk_log` with a `sync` each, in one process",
        sizes: [1, 16, 256],
        quick: [16],
        target: %{1 => {:at_least, 0.7}, 16 => {:at_least, 5}, 256 => {:at_least, 20}},
        run: &append/2
      },
      %Row{
        name: :log_read,
        what: "read an event of a whole log",
        theirs: "`disk_log:chunk/2`",
        sizes: [@events],
        quick: [10_000],
        target: {:at_least, 1},
        run: &read/2
      },
      %Row{
        name: :log_thread,
        what: "append to a stream of so many events",
        theirs: "a store of files",
        sizes: [10_000],
        quick: [1_000],
        target: {:at_least, 20},
        run: &thread/2
      },
      %Row{
        name: :log_open,
        what: "open a log after a crash",
        theirs: "`disk_log:open/1` of the same",
        sizes: [@events],
        quick: [10_000],
        target: {:at_least, 5},
        run: &open/2
      },
      %Row{
        name: :aggregate,
        what: "execute a command, by so many callers",
        theirs: "a GenServer that appends to `disk_log` and syncs",
        sizes: [1, 16],
        quick: [16],
        target: %{1 => {:at_least, 0.7}, 16 => {:at_least, 4}},
        run: &aggregate/2
      }
    ]
  end

  defp append(callers, context) do
    with_dir(fn dir ->
      log = start(dir)
      {:ok, theirs} = DiskLog.start_link(Path.join(dir, "disk_log"))
      calls = calls(callers, context)
      event = {:appended, @data}
      {:ok, 1} = EventLog.append(log, "check", [event])
      Bench.check!("log_append", hd(EventLog.read(log, "check")).data, @data)

      result =
        Bench.pair(
          context,
          fn _round ->
            called(callers, calls, fn number ->
              {:ok, _version} = EventLog.append(log, "stream-#{number}", [event])
            end)
          end,
          # It takes many times as long: fewer calls say as much.
          fn _round ->
            called(callers, max(1, div(calls, 4)), fn number ->
              {:ok, _version} = DiskLog.append(theirs, {"stream-#{number}", event})
            end)
          end
        )

      GenServer.stop(theirs)
      result
    end)
  end

  defp aggregate(callers, context) do
    with_dir(fn dir ->
      log = start(dir)
      {:ok, theirs} = DiskLog.start_link(Path.join(dir, "disk_log"))
      {:ok, ours} = Counter.start_link(log: log, stream: "counter")
      Bench.check!("aggregate", Aggregate.execute(ours, {:append, @data}), {:ok, 1})
      calls = calls(callers, context)

      result =
        Bench.pair(
          context,
          fn _round ->
            called(callers, calls, fn _number ->
              {:ok, _version} = Aggregate.execute(ours, {:append, @data})
            end)
          end,
          fn _round ->
            called(callers, max(1, div(calls, 4)), fn _number ->
              {:ok, _version} = DiskLog.append(theirs, {:appended, @data})
            end)
          end
        )

      GenServer.stop(theirs)
      GenServer.stop(ours)
      result
    end)
  end

  # How often each caller calls in a round.
  defp calls(callers, context), do: max(4, div(if(context.quick?, do: 64, else: 2_000), callers))

  defp called(callers, calls, fun) do
    lists = for number <- 1..callers, do: List.duplicate(number, calls)
    Bench.together(lists, fun) / (callers * calls)
  end

  defp read(size, context) do
    with_dir(fn dir ->
      log = start(dir)
      fill(log, size)
      theirs = fill_disk_log(Path.join(dir, "disk_log"), size)
      Bench.check!("log_read", count(log), size)
      Bench.check!("disk_log", chunks(theirs, :start, 0), size)

      result =
        Bench.pair(
          context,
          fn _round -> Bench.time(fn -> count(log) end) / size end,
          fn _round -> Bench.time(fn -> chunks(theirs, :start, 0) end) / size end
        )

      :ok = :disk_log.close(theirs)
      result
    end)
  end

  defp count(log) do
    log
    |> EventLog.stream(:all, chunk: 1_000)
    |> Enum.reduce(0, fn _event, count -> count + 1 end)
  end

  defp chunks(log, continuation, count) do
    case :disk_log.chunk(log, continuation) do
      :eof -> count
      {continuation, terms} -> chunks(log, continuation, Enum.reduce(terms, count, &counted/2))
    end
  end

  defp counted(_term, count), do: count + 1

  defp thread(size, context) do
    with_dir(fn dir ->
      log = start(dir)
      stream = for number <- 1..size, do: {:appended, {number, @data}}
      {:ok, ^size} = EventLog.append(log, "stream", stream)

      binaries = for event <- stream, do: :erlang.term_to_binary(event)
      File.write!(Path.join(dir, "stream"), for(it <- binaries, do: [<<byte_size(it)::32>>, it]))
      event = {:appended, {0, @data}}
      Bench.check!("log_thread", EventLog.append(log, "stream", [event]), {:ok, size + 1})
      Bench.check!("files", Files.append(dir, event), {:ok, size + 1})

      Bench.repeated(
        context,
        fn -> {:ok, _version} = EventLog.append(log, "stream", [event]) end,
        fn -> {:ok, _version} = Files.append(dir, event) end
      )
    end)
  end

  defp open(size, context) do
    with_dir(fn dir ->
      log = start(dir)
      fill(log, size)
      # As a crash leaves it: the marker says that the log is in use.
      synced = File.read!(Path.join([dir, "log", "synced"]))
      Supervisor.stop(supervisor(log))
      file = Path.join(dir, "disk_log")
      :ok = :disk_log.close(fill_disk_log(file, size))

      Bench.pair(
        context,
        fn _round ->
          File.write!(Path.join([dir, "log", "synced"]), synced)
          taken = Bench.time(fn -> start(dir) end)
          Bench.check!("log_open", EventLog.info(log).events, size)
          Supervisor.stop(supervisor(log))
          taken
        end,
        fn _round ->
          opened_before(file)
          name = make_ref()

          taken =
            Bench.time(fn ->
              {:repaired, ^name, {:recovered, ^size}, {:badbytes, 0}} =
                :disk_log.open(name: name, file: String.to_charlist(file))
            end)

          :ok = :disk_log.close(name)
          taken
        end
      )
    end)
  end

  # The mark of a disk_log that was not closed, after the first four bytes of its file.
  defp opened_before(file) do
    {:ok, device} = :file.open(file, [:read, :write, :raw, :binary])
    :ok = :file.pwrite(device, 4, <<6, 7, 8, 9>>)
    :ok = :file.close(device)
  end

  defp fill(log, size) do
    for chunk <- Enum.chunk_every(1..size, 1_000) do
      stream = "stream-#{rem(hd(chunk), 97)}"
      {:ok, _version} = EventLog.append(log, stream, for(n <- chunk, do: {:appended, {n, @data}}))
    end
  end

  defp fill_disk_log(file, size) do
    {:ok, log} = :disk_log.open(name: make_ref(), file: String.to_charlist(file))

    for chunk <- Enum.chunk_every(1..size, 1_000) do
      terms = for n <- chunk, do: {"stream-#{rem(hd(chunk), 97)}", n, {:appended, {n, @data}}}
      :ok = :disk_log.log_terms(log, terms)
    end

    :ok = :disk_log.sync(log)
    log
  end

  defp start(dir) do
    child = {EventLog, name: __MODULE__, dir: Path.join(dir, "log")}
    {:ok, supervisor} = Supervisor.start_link([child], strategy: :one_for_one)
    :persistent_term.put({__MODULE__, __MODULE__}, supervisor)
    __MODULE__
  end

  defp supervisor(log), do: :persistent_term.get({__MODULE__, log})

  defp with_dir(fun) do
    dir = Path.join(System.tmp_dir!(), "foundation_bench_#{System.os_time()}")
    File.mkdir_p!(dir)

    try do
      fun.(dir)
    after
      if Process.whereis(__MODULE__), do: Supervisor.stop(supervisor(__MODULE__))
      File.rm_rf!(dir)
      :erlang.garbage_collect()
    end
  end
end
