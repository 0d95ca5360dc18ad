defmodule Foundation.EventLogTest do
  use Foundation.Case, async: true

  alias Foundation.EventLog
  alias Foundation.EventLog.{Event, ReadError}

  # For the examples of the documentation.
  import Foundation.DocsLog

  @moduletag :tmp_dir

  doctest Foundation.EventLog

  setup %{tmp_dir: dir} do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    %{log: log}
  end

  defp restart(log, dir) do
    :ok = stop_supervised(log)
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
  end

  defp versions(events), do: Enum.map(events, & &1.version)
  defp positions(events), do: Enum.map(events, & &1.position)

  def forward(_event, measurements, metadata, {test, log, tag}) do
    if metadata.log == log, do: send(test, {tag, measurements, metadata})
  end

  describe "append/4" do
    test "stores an event with all of its fields", %{log: log} do
      before = System.system_time(:microsecond)
      assert EventLog.append(log, "s", [{:opened, %{by: self()}, %{request: "r"}}]) == {:ok, 1}
      me = self()

      assert [
               %Event{
                 stream: "s",
                 version: 1,
                 position: 1,
                 type: :opened,
                 data: %{by: ^me},
                 metadata: %{request: "r"},
                 at: at
               }
             ] = EventLog.read(log, "s")

      assert at in before..System.system_time(:microsecond)
    end

    test "returns any term unchanged", %{log: log} do
      data = [1.5, "a", <<1::3>>, make_ref(), &Enum.map/2, %{a: {1, 2}}, 2 ** 200, self(), nil]
      assert {:ok, 9} = EventLog.append(log, "s", Enum.map(data, &{"type", &1}))
      assert log |> EventLog.read("s") |> Enum.map(& &1.data) == data
    end

    test "checks the expected version", %{log: log} do
      one = [{:one, 1}]
      assert EventLog.append(log, "s", one, expected: :exists) == {:error, {:wrong_version, 0}}
      assert EventLog.append(log, "s", one, expected: 1) == {:error, {:wrong_version, 0}}
      assert EventLog.append(log, "s", one, expected: :none) == {:ok, 1}
      assert EventLog.append(log, "s", one, expected: :none) == {:error, {:wrong_version, 1}}
      assert EventLog.append(log, "s", one, expected: 1) == {:ok, 2}
      assert EventLog.append(log, "s", one, expected: :exists) == {:ok, 3}
      assert EventLog.append(log, "s", one, expected: 0) == {:error, {:wrong_version, 3}}
      assert EventLog.append(log, "s", one, expected: :any) == {:ok, 4}
    end

    test "appends nothing for an empty list, and checks the version", %{log: log} do
      assert EventLog.append(log, "s", []) == {:ok, 0}
      assert EventLog.append(log, "s", [], expected: 1) == {:error, {:wrong_version, 0}}
      assert EventLog.version(log, "s") == 0
      assert EventLog.info(log).commits == 0
    end

    test "lets one of many callers win a version", %{log: log} do
      answers =
        1..20
        |> Enum.map(&Task.async(fn -> EventLog.append(log, "s", [{:won, &1}], expected: 0) end))
        |> Task.await_many(30_000)

      assert Enum.count(answers, &(&1 == {:ok, 1})) == 1
      assert Enum.count(answers, &match?({:error, {:wrong_version, 1}}, &1)) == 19
    end

    test "shares commits among callers", %{log: log} do
      1..256
      |> Enum.map(&Task.async(fn -> EventLog.append(log, "s#{rem(&1, 7)}", [{:a, &1}]) end))
      |> Task.await_many(30_000)

      assert %{appends: 256, events: 256, position: 256, commits: commits} = EventLog.info(log)
      assert commits < 128
      assert log |> EventLog.stream(:all) |> Enum.map(& &1.position) == Enum.to_list(1..256)
    end

    test "raises for an event above max_event_bytes and appends no event of that call",
         %{tmp_dir: dir} do
      log = unique_name("log")
      options = [name: log, dir: Path.join(dir, "small"), max_event_bytes: 1_000]
      start_supervised!({EventLog, options}, id: log)
      large = {:large, String.duplicate("a", 1_000)}
      assert_raise ArgumentError, fn -> EventLog.append(log, "s", [{:small, 1}, large]) end
      assert EventLog.version(log, "s") == 0
    end

    test "accepts large events", %{log: log} do
      data = :crypto.strong_rand_bytes(10_000_000)
      assert EventLog.append(log, "s", [{:large, data}, {:large, data}]) == {:ok, 2}
      assert [%{data: ^data}, %{data: ^data}] = EventLog.read(log, "s")
    end

    test "reports each commit once, before it returns", %{log: log} do
      :telemetry.attach(
        {__MODULE__, log},
        [:foundation, :event_log, :commit],
        &__MODULE__.forward/4,
        {self(), log, :commit}
      )

      {:ok, 2} = EventLog.append(log, "s", [{:a, 1}, {:b, 2}])
      assert_received {:commit, %{appends: 1, events: 2, bytes: bytes, duration: duration}, _log}
      assert bytes > 0 and duration > 0

      1..50
      |> Enum.map(&Task.async(fn -> EventLog.append(log, "s", [{:a, &1}]) end))
      |> Task.await_many(30_000)

      commits = EventLog.info(log).commits
      reports = for _ <- 2..commits//1, do: assert_received({:commit, _measurements, _metadata})
      assert reports |> Enum.map(fn {:commit, it, _log} -> it.appends end) |> Enum.sum() == 50
      refute_received {:commit, _measurements, _metadata}
      :telemetry.detach({__MODULE__, log})
    end
  end

  describe "read/3" do
    setup %{log: log} do
      for number <- 1..10, do: EventLog.append(log, "s#{rem(number, 2)}", [{:n, number}])
      :ok
    end

    test "reads a stream from a version, in both directions", %{log: log} do
      assert versions(EventLog.read(log, "s0")) == [1, 2, 3, 4, 5]
      assert versions(EventLog.read(log, "s0", from: 3)) == [3, 4, 5]
      assert versions(EventLog.read(log, "s0", from: 3, limit: 2)) == [3, 4]
      assert versions(EventLog.read(log, "s0", direction: :backward)) == [5, 4, 3, 2, 1]
      assert versions(EventLog.read(log, "s0", direction: :backward, from: 3)) == [3, 2, 1]
      assert versions(EventLog.read(log, "s0", direction: :backward, from: 9, limit: 1)) == [5]
      assert EventLog.read(log, "s0", from: 6) == []
      assert EventLog.read(log, "s0", limit: 0) == []
      assert EventLog.read(log, "nobody") == []
    end

    test "reads the whole log from a position", %{log: log} do
      assert positions(EventLog.read(log, :all)) == Enum.to_list(1..10)
      assert positions(EventLog.read(log, :all, from: 9)) == [9, 10]
      assert positions(EventLog.read(log, :all, from: 2, direction: :backward)) == [2, 1]
    end

    test "limits to 1,000 events by default, or to :limit", %{log: log} do
      {:ok, 2_500} = EventLog.append(log, "many", for(n <- 1..2_500, do: {:n, n}))
      assert length(EventLog.read(log, "many")) == 1_000
      assert versions(EventLog.read(log, "many", limit: 2_400)) == Enum.to_list(1..2_400)
    end

    test "refuses an option that it does not know, with a suggestion", %{log: log} do
      assert_raise ArgumentError, ~r/did you mean :limit\?/, fn ->
        EventLog.read(log, "s0", limits: 1)
      end

      assert_raise ArgumentError, fn -> EventLog.read(log, "s0", from: 0) end
      assert_raise ArgumentError, fn -> EventLog.read(log, "", []) end
      assert_raise ArgumentError, fn -> EventLog.read(log, String.duplicate("a", 256)) end
    end
  end

  test "stream/3 reads a snapshot of the log", %{log: log} do
    EventLog.append(log, "s", for(n <- 1..20, do: {:n, n}))
    stream = EventLog.stream(log, "s", from: 2, chunk: 3)

    seen =
      Enum.map(stream, fn event ->
        EventLog.append(log, "s", [{:later, 0}])
        event.version
      end)

    assert seen == Enum.to_list(2..20)
    assert Enum.count(stream) == 38
    assert log |> EventLog.stream(:all, chunk: 7) |> positions() == Enum.to_list(1..39)
  end

  describe "snapshots" do
    test "keep only the newest, across a restart too", %{log: log, tmp_dir: dir} do
      assert EventLog.get_snapshot(log, "s") == :error
      assert EventLog.put_snapshot(log, "s", 5, :five) == :ok
      assert EventLog.put_snapshot(log, "s", 4, :four) == :ok
      assert EventLog.get_snapshot(log, "s") == {:ok, 5, :five}
      restart(log, dir)
      assert EventLog.get_snapshot(log, "s") == {:ok, 5, :five}
      assert EventLog.put_snapshot(log, "s", 5, :again) == :ok
      assert EventLog.get_snapshot(log, "s") == {:ok, 5, :again}
    end
  end

  describe "delete_stream/3 and trim/3" do
    setup %{log: log} do
      {:ok, 5} = EventLog.append(log, "s", for(n <- 1..5, do: {:n, n}))
      {:ok, 1} = EventLog.append(log, "other", [{:n, 6}])
      :ok = EventLog.put_snapshot(log, "s", 5, :state)
    end

    test "a deleted stream keeps its version and nothing else", %{log: log, tmp_dir: dir} do
      assert EventLog.delete_stream(log, "s", expected: 4) == {:error, {:wrong_version, 5}}
      assert EventLog.delete_stream(log, "s", expected: 5) == :ok

      for again <- [false, true] do
        if again, do: restart(log, dir)
        assert EventLog.read(log, "s") == []
        assert EventLog.version(log, "s") == 5
        assert EventLog.get_snapshot(log, "s") == :error
        assert Enum.to_list(EventLog.streams(log)) == ["other"]
        assert positions(EventLog.read(log, :all)) == [6]
        assert %{events: 1, streams: 1, position: 6} = EventLog.info(log)
      end

      assert EventLog.append(log, "s", [{:n, 7}], expected: :none) ==
               {:error, {:wrong_version, 5}}

      assert EventLog.append(log, "s", [{:n, 7}], expected: 5) == {:ok, 6}
      assert [%{version: 6, position: 7}] = EventLog.read(log, "s")
      assert "s" in EventLog.streams(log)
    end

    test "a trimmed stream keeps its later events", %{log: log, tmp_dir: dir} do
      assert EventLog.trim(log, "s", before: 4) == :ok
      assert EventLog.trim(log, "s", before: 2) == :ok
      restart(log, dir)
      assert versions(EventLog.read(log, "s")) == [4, 5]
      assert versions(EventLog.read(log, "s", direction: :backward, from: 4)) == [4]
      assert EventLog.get_snapshot(log, "s") == {:ok, 5, :state}
      assert EventLog.trim(log, "s", before: 100) == :ok
      assert EventLog.read(log, "s") == []
      assert EventLog.version(log, "s") == 5
      assert "s" in EventLog.streams(log)
      assert EventLog.append(log, "s", [{:n, 8}]) == {:ok, 6}
    end
  end

  describe "the owner" do
    test "has the log's name, and refuses a second start", %{log: log, tmp_dir: dir} do
      pid = Process.whereis(log)
      assert EventLog.start_link(name: log, dir: dir) == {:error, {:already_started, pid}}
    end

    test "is one of many that start at once", %{tmp_dir: dir} do
      name = unique_name("log")
      start = fn -> EventLog.start_link(name: name, dir: Path.join(dir, "one")) end
      workers = start_workers(8)
      test = self()
      for worker <- workers, do: send(worker, {:run, test, make_ref(), start})

      answers =
        for _ <- workers do
          assert_receive {_ref, :returned, answer}, 60_000
          answer
        end

      assert [ok: owner] = Enum.filter(answers, &match?({:ok, _pid}, &1))
      for {:error, reason} <- answers, do: assert(reason == {:already_started, owner})
    end

    test "may be down during a call while it restarts", %{log: log, tmp_dir: dir} do
      {:ok, 1} = EventLog.append(log, "s", [{:n, 1}])
      :ok = stop_supervised(log)
      name = unique_name("log")
      {:ok, owner} = start_unlinked(name: name, dir: dir)
      kill(owner)
      assert EventLog.append(name, "s", [{:n, 2}]) == {:ok, 2}
      assert versions(EventLog.read(name, "s")) == [1, 2]
      assert {:ok, successor} = start_unlinked(name: name, dir: dir)
      assert EventLog.append(name, "s", [{:n, 3}]) == {:ok, 3}
      GenServer.stop(successor)
    end

    test "leaves a log that closes when it is not adopted in time", %{tmp_dir: dir} do
      dir = Path.join(dir, "left")
      name = unique_name("log")
      {:ok, owner} = start_unlinked(name: name, dir: dir, adopt_timeout: 1)
      {:ok, 1} = EventLog.append(name, "s", [{:n, 1}])
      kill(owner)
      eventually(fn -> Foundation.Native.event_log_owner(name) == nil end)
      assert_raise ArgumentError, ~r/unknown event log/, fn -> EventLog.version(name, "s") end
      # As in order: nothing is recovered.
      other = unique_name("log")
      eventually(fn -> match?({:ok, _pid}, start_unlinked(name: other, dir: dir)) end)
      assert EventLog.version(other, "s") == 1
      GenServer.stop(other)
    end

    defp start_unlinked(options) do
      with {:ok, pid} <- EventLog.start_link(options) do
        Process.unlink(pid)
        {:ok, pid}
      end
    end
  end

  test "the health check has the log's figures and its owner's status", %{log: log} do
    {:ok, 1} = EventLog.append(log, "s", [{:n, 1}])
    figures = Map.put(EventLog.info(log), :owner_alive, true)
    assert Foundation.HealthCheck.check_event_log().logs[log] == figures
    assert Foundation.HealthCheck.check_all().event_log.logs[log] == figures
    :ok = stop_supervised(log)
    refute Map.has_key?(Foundation.HealthCheck.check_event_log().logs, log)
  end

  test "a directory that is in use is refused", %{log: log, tmp_dir: dir} do
    assert EventLog.start_link(name: unique_name("log"), dir: dir) == {:error, {:in_use, dir}}
    assert EventLog.version(log, "s") == 0
  end

  test "the log's files are accessible to the node's user only", %{tmp_dir: dir} do
    dir = Path.join([dir, "made", "log"])
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)

    for name <- [".", "..", "lock", "synced", "00000000000000000001.events"] do
      assert Bitwise.band(File.stat!(Path.join(dir, name)).mode, 0o077) == 0, name
    end
  end

  test "a directory that cannot be created is an error", %{tmp_dir: dir} do
    file = Path.join(dir, "file")
    File.write!(file, "")
    options = [name: unique_name("log"), dir: Path.join(file, "log")]
    assert EventLog.start_link(options) == {:error, {:io, :enotdir}}
  end

  test "invalid options raise with a suggestion", %{tmp_dir: dir} do
    start = &EventLog.start_link/1
    assert_raise ArgumentError, ~r/:name/, fn -> start.(dir: dir) end
    assert_raise ArgumentError, ~r/:dir/, fn -> start.(name: :log) end
    assert_raise ArgumentError, ~r/:sync/, fn -> start.(name: :log, dir: dir, sync: 5) end
    wrong = [name: :log, dir: dir, segment_byte: 1]
    assert_raise ArgumentError, ~r/did you mean :segment_bytes\?/, fn -> start.(wrong) end
  end

  test "a call about a log that is not started raises" do
    calls = [
      &EventLog.append(&1, "s", [{:n, 1}]),
      &EventLog.read(&1, "s"),
      &EventLog.read(&1, :all),
      &Enum.to_list(EventLog.stream(&1, "s")),
      &EventLog.version(&1, "s"),
      &EventLog.streams/1,
      &EventLog.info/1,
      &EventLog.put_snapshot(&1, "s", 1, :state),
      &EventLog.get_snapshot(&1, "s"),
      &EventLog.subscribe(&1, :all, :name),
      &EventLog.delete_subscription(&1, :name),
      &EventLog.delete_stream(&1, "s"),
      &EventLog.trim(&1, "s", before: 1),
      &EventLog.backup(&1, "path"),
      &EventLog.verify/1
    ]

    for call <- calls do
      assert_raise ArgumentError, "unknown event log: :nobody", fn -> call.(:nobody) end
    end
  end

  test "a backup is an independent log, and runs during appends", %{log: log, tmp_dir: dir} do
    for n <- 1..100, do: EventLog.append(log, "s", [{:n, n}])
    writer = Task.async(fn -> for n <- 1..200, do: EventLog.append(log, "s", [{:n, n}]) end)
    copy = Path.join(dir, "copy")
    assert EventLog.backup(log, copy) == :ok
    assert EventLog.backup(log, copy) == {:error, {:io, :eexist}}
    Task.await(writer, 30_000)
    copied = unique_name("log")
    start_supervised!({EventLog, name: copied, dir: copy}, id: copied)
    version = EventLog.version(copied, "s")
    assert version in 100..300
    assert EventLog.read(copied, "s") == EventLog.read(log, "s", limit: version)
    assert EventLog.verify(copied) == :ok
  end

  describe "damage" do
    @describetag :capture_log

    setup %{log: log, tmp_dir: dir} do
      for n <- 1..20, do: EventLog.append(log, "s", [{:n, n}])
      %{segment: Path.join(dir, "00000000000000000001.events")}
    end

    defp flip(file, offset) do
      byte = file |> File.read!() |> :binary.at(offset)
      # In place: the log has the file open.
      {:ok, device} = :file.open(file, [:read, :write, :raw, :binary])
      :ok = :file.pwrite(device, offset, <<Bitwise.bxor(byte, 1)>>)
      :ok = :file.close(device)
    end

    test "is reported by verify/1 and by the read of the event", %{log: log, segment: file} do
      assert EventLog.verify(log) == :ok
      flip(file, 100)
      assert {:error, [{:damaged, ^file, {:checksum, offset}}]} = EventLog.verify(log)
      assert offset <= 100
      error = assert_raise(ReadError, fn -> EventLog.read(log, "s") end)
      assert {:damaged, ^file, {:checksum, _offset}} = error.reason
      assert Exception.message(error) =~ file
      assert [%{version: 20}] = EventLog.read(log, "s", from: 20)
    end

    test "fails the start and is reported", %{log: log, tmp_dir: dir, segment: file} do
      :ok = stop_supervised(log)
      flip(file, 100)

      :telemetry.attach(
        {__MODULE__, log},
        [:foundation, :event_log, :damaged],
        &__MODULE__.forward/4,
        {self(), log, :damaged}
      )

      ExUnit.CaptureLog.capture_log(fn ->
        assert {:error, {:damaged, ^file, {:checksum, _offset}}} =
                 EventLog.start_link(name: log, dir: dir)
      end)

      assert_received {:damaged, %{count: 1}, %{path: ^file}}
      :telemetry.detach({__MODULE__, log})
    end
  end

  test "with an interval an append returns before the sync, and its event is kept", %{
    tmp_dir: dir
  } do
    dir = Path.join(dir, "interval")
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir, sync: {:interval, 5}}, id: log)
    for n <- 1..100, do: {:ok, ^n} = EventLog.append(log, "s", [{:n, n}])
    assert versions(EventLog.read(log, "s")) == Enum.to_list(1..100)
    :ok = stop_supervised(log)
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    assert EventLog.version(log, "s") == 100
  end
end
