defmodule Foundation.StateManagerTest do
  use Foundation.Case, async: true

  import ExUnit.CaptureLog

  alias Foundation.StateManager

  @moduletag :tmp_dir

  doctest StateManager

  defmodule Keeper do
    use Foundation.StateManager, checkpoint_interval: :infinity

    def initial_state(options), do: Keyword.get(options, :begin, :initial)

    def handle_call(:get, _from, state), do: {:reply, state, state}
    def handle_call({:put, new}, _from, _old), do: {:reply, :ok, new}
    def handle_call({:run, fun}, _from, state), do: fun.(state)

    def handle_cast({:put, new}, _old), do: {:noreply, new}

    def handle_continue({:put, new}, _old), do: {:noreply, new}

    def terminate(reason, {:tell, pid} = state) do
      send(pid, {:terminated, reason, state})
      raise "a terminate/2 that fails"
    end

    def terminate(_reason, _state), do: :ok
  end

  defmodule Listener do
    use Foundation.StateManager
    def initial_state(options), do: options
    def handle_info(message, options), do: {:noreply, [message | options]}
    def handle_call(:get, _from, state), do: {:reply, state, state}
  end

  defp start(dir, options \\ []) do
    options = Keyword.merge([name: nil, checkpoint_dir: dir], options)
    start_supervised!({Keeper, options}, id: make_ref(), restart: :temporary)
  end

  # Returns {:ok, state} as a new server finds it, and leaves no trace.
  defp restore(dir) do
    pid = start(dir)
    state = GenServer.call(pid, :get)
    kill(pid)
    state
  end

  defp checkpoints(dir), do: dir |> Path.join("*.checkpoint") |> Path.wildcard() |> Enum.sort()

  defp listen(events) do
    id = make_ref()
    parent = self()
    names = for event <- events, do: [:foundation, :state, event]

    :ok = :telemetry.attach_many(id, names, &__MODULE__.forward/4, parent)
    on_exit(fn -> :telemetry.detach(id) end)
  end

  def forward([_, _, event], measurements, metadata, parent) do
    send(parent, {event, measurements, metadata})
  end

  test "a directory belongs to one server until that server ends", %{tmp_dir: dir} do
    first = start(dir)
    link = Path.join(dir, "../" <> Path.basename(dir))
    options = [name: nil, checkpoint_dir: link]

    for module <- [Keeper, Listener] do
      assert {:error, {{:checkpoint_dir, ^dir, :in_use}, _child}} =
               start_supervised({module, options}, id: make_ref())
    end

    :ok = GenServer.call(first, {:put, :kept})
    :ok = StateManager.checkpoint(first)
    Process.exit(first, :kill)
    assert dir |> start() |> GenServer.call(:get) == :kept
  end

  test "a symlink and its target count as one directory", %{tmp_dir: dir} do
    own = Path.join(dir, "own")
    link = Path.join(dir, "link")
    first = start(own)
    File.ln_s!(own, link)

    assert {:error, {{:checkpoint_dir, ^link, :in_use}, _child}} =
             start_supervised({Keeper, name: nil, checkpoint_dir: link}, id: make_ref())

    # The same after the directory was removed and created again.
    File.rm_rf!(own)
    :ok = StateManager.checkpoint(first)

    assert {:error, {{:checkpoint_dir, ^link, :in_use}, _child}} =
             start_supervised({Keeper, name: nil, checkpoint_dir: link}, id: make_ref())

    GenServer.stop(first)
    assert link |> start() |> GenServer.call(:get) == :initial
  end

  test "a directory is locked to one VM and free after that VM ends", %{
    tmp_dir: dir
  } do
    options = [[name: nil, checkpoint_dir: dir]]
    peer = Foundation.Peer.start_alone()
    {:ok, _apps} = :peer.call(peer, :application, :ensure_all_started, [:telemetry])
    mine = start(dir)
    in_use = {:checkpoint_dir, dir, :in_use}

    assert {:error, ^in_use} =
             :peer.call(peer, Foundation.Test.CheckpointedCounter, :begin, options)

    GenServer.stop(mine)

    assert {:ok, _pid} = :peer.call(peer, Foundation.Test.CheckpointedCounter, :begin, options)

    assert {:error, {^in_use, _child}} =
             start_supervised({Keeper, name: nil, checkpoint_dir: dir}, id: make_ref())

    os_pid = :peer.call(peer, System, :pid, [])
    Process.unlink(peer)
    {_, 0} = System.cmd("kill", ["-9", os_pid])
    eventually(fn -> not File.exists?("/proc/#{os_pid}") end)
    start(dir)
  end

  test "a server that lost its lock writes no checkpoint", %{tmp_dir: dir} do
    pid = start(dir)
    :ok = StateManager.checkpoint(pid)
    before = checkpoints(dir)
    File.write!(Path.join(dir, "lock"), "1 unknown other")

    log = capture_log(fn -> assert StateManager.checkpoint(pid) == {:error, :in_use} end)
    assert log =~ "another server has taken the directory (:in_use)"
    capture_log(fn -> GenServer.stop(pid) end)
    assert checkpoints(dir) == before
    assert File.read!(Path.join(dir, "lock")) == "1 unknown other"
  end

  test "a lock without a running VM is replaced, whatever its content", %{tmp_dir: dir} do
    lock = Path.join(dir, "lock")

    for make <- [
          fn -> File.write!(lock, "") end,
          fn -> File.write!(lock, "1 another-boot:1 token") end,
          fn -> File.write!(lock, "#{System.pid()} another-boot:1 token") end,
          fn -> File.write!(lock, "-1 x y") end,
          fn -> File.write!(lock, <<255, 0>>) end,
          fn -> File.write!(lock, String.duplicate("1 ", 1_000_000)) end,
          fn -> {_, 0} = System.cmd("mkfifo", [lock]) end,
          fn -> File.ln_s!("/dev/zero", lock) end
        ] do
      File.rm(lock)
      make.()
      pid = start(dir)
      assert StateManager.checkpoint(pid) == :ok
      GenServer.stop(pid)
      refute File.exists?(lock)
    end
  end

  test "the directory and its files are accessible to their owner only", %{tmp_dir: dir} do
    own = Path.join([dir, "new", "own"])
    pid = start(own)
    :ok = StateManager.checkpoint(pid)
    assert Bitwise.band(File.stat!(own).mode, 0o777) == 0o700

    for file <- File.ls!(own) do
      assert Bitwise.band(File.stat!(Path.join(own, file)).mode, 0o777) == 0o600, file
    end

    # An existing directory keeps the mode that its owner has chosen.
    File.chmod!(dir, 0o750)
    start(dir)
    assert Bitwise.band(File.stat!(dir).mode, 0o777) == 0o750
  end

  describe "a restart restores" do
    test "the state after the directory or its files were removed", %{tmp_dir: dir} do
      for remove <- [&File.rm_rf!/1, &Enum.each(checkpoints(&1), fn file -> File.rm!(file) end)],
          stop <- [&GenServer.stop/1, &(:ok = StateManager.checkpoint(&1))] do
        own = Path.join(dir, "own")
        pid = start(own, begin: :kept)
        # The state is unchanged.
        :ok = StateManager.checkpoint(pid)
        remove.(own)
        stop.(pid)
        kill(pid)
        assert restore(own) == :kept
        File.rm_rf!(own)
      end
    end

    test "the state that the interval rewrote after its file was removed", %{tmp_dir: dir} do
      own = Path.join(dir, "own")
      pid = start(own, checkpoint_interval: 10, begin: :kept)
      :ok = StateManager.checkpoint(pid)
      File.rm_rf!(own)
      eventually(fn -> checkpoints(own) != [] end)
      kill(pid)
      assert restore(own) == :kept
    end

    test "the initial state of the start options without a checkpoint", %{
      tmp_dir: dir
    } do
      pid = start(dir, begin: :mine)
      assert GenServer.call(pid, :get) == :mine
    end

    test "the state that checkpoint/1 wrote before a kill", %{tmp_dir: dir} do
      pid = start(dir)
      :ok = GenServer.call(pid, {:put, :kept})
      assert StateManager.checkpoint(pid) == :ok
      :ok = GenServer.call(pid, {:put, :lost})
      kill(pid)
      assert restore(dir) == :kept
    end

    test "the state at the moment when a supervisor stops the server", %{tmp_dir: dir} do
      start_supervised!({Keeper, checkpoint_dir: dir, name: nil})
      |> GenServer.call({:put, :stopped})

      stop_supervised!(Keeper)
      assert restore(dir) == :stopped
    end

    test "the state before a callback that raised", %{tmp_dir: dir} do
      pid = start(dir)
      :ok = GenServer.call(pid, {:put, :before})
      ref = Process.monitor(pid)

      capture_log(fn ->
        catch_exit(GenServer.call(pid, {:run, fn _ -> raise "no" end}))
        assert_receive {:DOWN, ^ref, :process, ^pid, {%RuntimeError{}, _}}
      end)

      assert restore(dir) == :before
    end

    test "the state when the module's terminate/2 raises", %{tmp_dir: dir} do
      pid = start(dir)
      :ok = GenServer.call(pid, {:put, {:tell, self()}})
      capture_log(fn -> catch_exit(GenServer.stop(pid, :shutdown)) end)
      assert_receive {:terminated, :shutdown, {:tell, _}}
      assert restore(dir) == {:tell, self()}
    end

    test "the state that a :stop answer returned", %{tmp_dir: dir} do
      pid = start(dir)
      ref = Process.monitor(pid)
      assert GenServer.call(pid, {:run, fn _ -> {:stop, :normal, :bye, :last} end}) == :bye
      assert_receive {:DOWN, ^ref, _, _, :normal}
      assert restore(dir) == :last
    end

    test "the state that the interval wrote", %{tmp_dir: dir} do
      listen([:checkpoint])
      pid = start(dir, checkpoint_interval: 5)
      :ok = GenServer.call(pid, {:put, :ticked})

      eventually(fn ->
        Enum.any?(checkpoints(dir), &(File.read!(&1) =~ "ticked"))
      end)

      kill(pid)
      assert restore(dir) == :ticked
    end

    test "a state of any type of term", %{tmp_dir: dir} do
      float = -0.0

      terms = [
        nil,
        self(),
        make_ref(),
        &String.upcase/1,
        [1 | 2],
        %{{:a, 1.0} => <<1::3>>, float => 2 ** 100},
        MapSet.new([1]),
        :binary.copy("x", 3_000_000),
        Enum.to_list(1..100_000)
      ]

      for term <- terms do
        pid = start(dir)
        :ok = GenServer.call(pid, {:put, term})
        :ok = StateManager.checkpoint(pid)
        kill(pid)
        assert restore(dir) === term
      end
    end

    test "a closure while its module is loaded", %{tmp_dir: dir} do
      n = System.unique_integer()
      pid = start(dir)
      :ok = GenServer.call(pid, {:put, fn x -> x + n end})
      :ok = StateManager.checkpoint(pid)
      kill(pid)
      assert restore(dir).(1) == n + 1
    end
  end

  describe "a checkpoint" do
    test "is not written without a callback since the last one", %{tmp_dir: dir} do
      start(dir) |> GenServer.stop()
      [first] = checkpoints(dir)

      # Three intervals without a change, and then an orderly stop.
      listen([:restore])
      pid = start(dir, checkpoint_interval: 1)
      for _ <- 1..3, do: eventually(fn -> tick(pid) end)
      GenServer.stop(pid)
      assert checkpoints(dir) == [first]
    end

    # Returns true once the server has handled a tick of its own that was sent after this call.
    defp tick(pid) do
      :erlang.trace(pid, true, [:receive])
      assert_receive {:trace, ^pid, :receive, {Foundation.StateManager, :tick}}
      :sys.get_state(pid)
      :erlang.trace(pid, false, [:receive])
      true
    end

    test "is always written by checkpoint/1", %{tmp_dir: dir} do
      pid = start(dir)
      :ok = StateManager.checkpoint(pid)
      [first] = checkpoints(dir)
      :ok = StateManager.checkpoint(pid)
      assert [^first, _second] = checkpoints(dir)
    end

    test "is kept with its predecessor, across restarts too", %{tmp_dir: dir} do
      for _ <- 1..3 do
        pid = start(dir)
        for _ <- 1..3, do: :ok = StateManager.checkpoint(pid)
        kill(pid)
      end

      assert Enum.map(checkpoints(dir), &Path.basename/1) ==
               ["00000000000000000008.checkpoint", "00000000000000000009.checkpoint"]
    end

    test "that fails returns an error, emits, warns, and leaves the server running", %{
      tmp_dir: dir
    } do
      listen([:checkpoint_failed])
      own = Path.join(dir, "own")
      pid = start(own)
      :ok = GenServer.call(pid, {:put, :kept})
      File.rm_rf!(own)
      File.write!(own, "no directory")

      log = capture_log(fn -> assert StateManager.checkpoint(pid) == {:error, :enotdir} end)

      assert log =~
               "no checkpoint of Foundation.StateManagerTest.Keeper could be written to #{own}"

      assert_receive {:checkpoint_failed, %{count: 1},
                      %{module: Keeper, path: ^own, reason: :enotdir}}

      File.rm!(own)
      assert StateManager.checkpoint(pid) == :ok
      kill(pid)
      assert restore(own) == :kept
    end

    test "emits events with its duration and its size", %{tmp_dir: dir} do
      listen([:restore, :checkpoint])
      pid = start(dir)
      assert_receive {:restore, %{duration: restoring}, %{module: Keeper, path: nil}}
      :ok = GenServer.call(pid, {:put, :binary.copy("x", 1000)})
      :ok = StateManager.checkpoint(pid)
      [path] = checkpoints(dir)

      assert_receive {:checkpoint, %{duration: writing, bytes: bytes},
                      %{module: Keeper, path: ^path}}

      assert bytes == File.stat!(path).size
      assert restoring > 0 and writing > 0
      kill(pid)
      restore(dir)
      assert_receive {:restore, %{duration: _}, %{path: ^path}}
    end
  end

  describe "a damaged checkpoint" do
    setup %{tmp_dir: dir} do
      pid = start(dir)

      for state <- [:older, :newer] do
        :ok = GenServer.call(pid, {:put, state})
        :ok = StateManager.checkpoint(pid)
      end

      kill(pid)
      [older, newer] = checkpoints(dir)
      listen([:corrupt])
      %{older: older, newer: newer}
    end

    test "is reported, and the previous one is used", %{tmp_dir: dir, newer: newer} do
      File.write!(newer, "FNDSTATE nonsense")
      log = capture_log(fn -> assert restore(dir) == :older end)
      assert log =~ "the checkpoint #{newer} cannot be used (:wrong_length)"
      assert_receive {:corrupt, %{count: 1}, %{path: ^newer, reason: :wrong_length}}
      refute_received {:corrupt, _, %{path: ^newer}}
    end

    test "is reported with the kind of damage", c do
      whole = File.read!(c.newer)
      last = byte_size(whole) - 1

      for {bytes, reason} <- [
            {"", :not_a_checkpoint},
            {"x" <> whole, :not_a_checkpoint},
            {binary_part(whole, 0, 20), :wrong_length},
            {binary_part(whole, 0, last), :wrong_length},
            {whole <> "x", :wrong_length},
            {binary_part(whole, 0, last) <> <<:binary.at(whole, last) + 1>>, :wrong_checksum}
          ] do
        File.write!(c.newer, bytes)
        capture_log(fn -> restore(c.tmp_dir) end)
        path = c.newer
        assert_received {:corrupt, %{count: 1}, %{path: ^path, reason: ^reason}}
      end
    end

    test "with a damaged predecessor gives the initial state", c do
      for path <- [c.older, c.newer], do: File.write!(path, "")
      capture_log(fn -> assert restore(c.tmp_dir) == :initial end)

      for path <- [c.newer, c.older] do
        assert_receive {:corrupt, %{count: 1}, %{path: ^path, reason: :not_a_checkpoint}}
      end
    end

    test "does not count as one of the two that are kept", c do
      File.write!(c.newer, "damaged")

      capture_log(fn ->
        pid = start(c.tmp_dir)
        :ok = GenServer.call(pid, {:put, :newest})
        :ok = StateManager.checkpoint(pid)
        kill(pid)
      end)

      assert [older, newest] = checkpoints(c.tmp_dir)
      assert older == c.older
      File.write!(newest, "damaged too")
      capture_log(fn -> assert restore(c.tmp_dir) == :older end)
    end

    test "is followed by an intact one when the server stops", c do
      File.write!(c.newer, "damaged")
      capture_log(fn -> c.tmp_dir |> start() |> GenServer.stop() end)
      File.rm!(c.older)
      assert restore(c.tmp_dir) == :older
    end

    test "is detected under the name of another checkpoint", c do
      File.cp!(c.older, c.newer)
      capture_log(fn -> assert restore(c.tmp_dir) == :older end)
      path = c.newer
      assert_receive {:corrupt, _, %{path: ^path, reason: :misplaced}}
    end

    test "of a future format version is left in place", c do
      <<magic::binary-size(8), _version::16, rest::binary>> = File.read!(c.newer)
      File.write!(c.newer, [magic, <<2::16>>, rest])

      capture_log(fn ->
        pid = start(c.tmp_dir)
        assert GenServer.call(pid, :get) == :older
        for _ <- 1..3, do: :ok = StateManager.checkpoint(pid)
        kill(pid)
        assert restore(c.tmp_dir) == :older
      end)

      path = c.newer
      assert_receive {:corrupt, _, %{path: ^path, reason: {:unsupported_version, 2}}}
      assert path in checkpoints(c.tmp_dir)
      assert length(checkpoints(c.tmp_dir)) == 3
    end

    test "that is a directory is reported", c do
      File.rm!(c.newer)
      File.mkdir!(c.newer)
      capture_log(fn -> assert restore(c.tmp_dir) == :older end)
      path = c.newer
      assert_receive {:corrupt, _, %{path: ^path, reason: :eisdir}}
    end

    test "that is a file of unbounded length is not read to its end", c do
      {:ok, file} = :file.open(c.newer, [:read, :write, :raw])
      # A sparse file of 4 TB, which takes no room on the disk.
      {:ok, _} = :file.position(file, 4 * 1024 ** 4)
      :ok = :file.truncate(file)
      :ok = :file.close(file)
      capture_log(fn -> assert restore(c.tmp_dir) == :older end)
      path = c.newer
      assert_receive {:corrupt, _, %{path: ^path, reason: :wrong_length}}
    end

    test "that is a pipe is not waited for", c do
      File.rm!(c.newer)
      {_output, 0} = System.cmd("mkfifo", [c.newer])
      capture_log(fn -> assert restore(c.tmp_dir) == :older end)
      path = c.newer
      assert_receive {:corrupt, _, %{path: ^path, reason: :einval}}
    end

    # Each start and stop writes to the disk, which may be slow or busy.
    @tag timeout: 300_000
    test "of 200 random kinds is never used and never crashes the server", c do
      [older, newer] = originals = Enum.map([c.older, c.newer], &File.read!/1)

      for _ <- 1..200 do
        files =
          case :rand.uniform(3) do
            1 -> [damage(older, originals), damage(newer, originals)]
            _ -> [older, damage(newer, originals)]
          end

        for {path, bytes} <- Enum.zip([c.older, c.newer], files), do: File.write!(path, bytes)

        expected =
          case files do
            [_, ^newer] -> :newer
            [^older, _] -> :older
            _ -> :initial
          end

        capture_log(fn -> assert restore(c.tmp_dir) == expected end)

        for {path, bytes, original} <- Enum.zip([[c.older, c.newer], files, originals]),
            bytes != original and (path == c.newer or expected == :initial) do
          assert_received {:corrupt, %{count: 1}, %{path: ^path}}
        end
      end
    end

    defp damage(bytes, originals) do
      size = byte_size(bytes)
      from = :rand.uniform(size) - 1
      length = :rand.uniform(size - from)
      before = binary_part(bytes, 0, from)
      cut = binary_part(bytes, from, length)
      rest = binary_part(bytes, from + length, size - from - length)
      <<byte, tail::binary>> = cut

      case :rand.uniform(9) do
        1 -> before <> <<Bitwise.bxor(byte, 2 ** (:rand.uniform(8) - 1))>> <> tail <> rest
        2 -> before <> :rand.bytes(length) <> rest
        3 -> before <> :binary.copy(<<0>>, length) <> rest
        4 -> before
        5 -> before <> rest
        6 -> bytes <> cut
        7 -> cut <> before <> rest
        8 -> Enum.random(originals)
        9 -> :rand.bytes(:rand.uniform(200))
      end
    end

    test "is not left by a write that a kill interrupted", c do
      left = c.newer <> ".1-2.tmp"
      File.write!(left, "half a checkp")
      assert restore(c.tmp_dir) == :newer
      refute File.exists?(left)
      refute_received {:corrupt, _, %{path: _}}
    end
  end

  test "unrelated files in the directory are left alone", %{tmp_dir: dir} do
    # The number in the last name is too large for a checkpoint.
    names = ~w(README 1.checkpoint a.tmp 99999999999999999999.checkpoint)
    others = for name <- names, do: Path.join(dir, name)
    for path <- others, do: File.write!(path, "mine")
    pid = start(dir)
    :ok = GenServer.call(pid, {:put, :kept})
    for _ <- 1..3, do: :ok = StateManager.checkpoint(pid)
    kill(pid)
    assert restore(dir) == :kept
    for path <- others, do: assert(File.read!(path) == "mine")
  end

  test "a kill during a write leaves an earlier or the new state", %{tmp_dir: dir} do
    big = :binary.copy("x", 500_000)

    Enum.reduce(1..40, 0, fn round, floor ->
      pid = start(dir, begin: {0, big})
      {restored, ^big} = GenServer.call(pid, :get)
      assert restored >= floor
      parent = self()

      # In a process of its own, because the call exits when the server dies.
      spawn(fn ->
        for n <- (restored + 1)..(restored + 1000) do
          :ok = GenServer.call(pid, {:put, {n, big}})
          :ok = StateManager.checkpoint(pid)
          send(parent, {round, n})
        end
      end)

      assert_receive {^round, first}
      # At a random point in the next write.
      for _ <- 1..:rand.uniform(20_000), do: :ok
      kill(pid)
      last_acknowledged(round, first)
    end)
  end

  defp last_acknowledged(round, last) do
    receive do
      {^round, n} -> last_acknowledged(round, n)
    after
      0 -> last
    end
  end

  describe "as a GenServer" do
    test "every callback return value works as in a GenServer", %{tmp_dir: dir} do
      pid = start(dir)
      run = &GenServer.call(pid, {:run, &1})

      assert run.(fn _ -> {:reply, 1, :a} end) == 1
      assert run.(fn :a -> {:reply, 2, :b, :hibernate} end) == 2
      assert run.(fn :b -> {:reply, 3, :c, 60_000} end) == 3
      assert run.(fn :c -> {:reply, 4, :d, {:continue, {:put, :continued}}} end) == 4
      assert GenServer.call(pid, :get) == :continued
      :ok = GenServer.cast(pid, {:put, :cast})
      assert GenServer.call(pid, :get) == :cast

      capture_log(fn ->
        assert {{:bad_return_value, :nonsense}, _} = catch_exit(run.(fn _ -> :nonsense end))
      end)
    end

    test "a callback's timeout fires while checkpoints are written", %{tmp_dir: dir} do
      defmodule Impatient do
        use Foundation.StateManager, checkpoint_interval: 5
        def initial_state(options), do: options[:tell]
        def handle_cast(:wait, pid), do: {:noreply, pid, 60}

        def handle_info(:timeout, pid) do
          send(pid, :timed_out)
          {:noreply, pid}
        end
      end

      pid = start_supervised!({Impatient, checkpoint_dir: dir, tell: self()})
      :ok = GenServer.cast(pid, :wait)
      :ok = StateManager.checkpoint(pid)
      assert_receive :timed_out
    end

    test "the server hibernates again after a checkpoint", %{tmp_dir: dir} do
      pid = start(dir)
      GenServer.call(pid, {:run, &{:reply, :ok, &1, :hibernate}})
      :ok = StateManager.checkpoint(pid)

      # From OTP 28 on, the function in which a server hibernates has another name.
      eventually(fn ->
        {:current_function, {_module, function, _arity}} = Process.info(pid, :current_function)
        function in [:hibernate, :loop_hibernate]
      end)
    end

    test "status and crash reports show the module's own state", %{tmp_dir: dir} do
      pid = start(dir)
      :ok = GenServer.call(pid, {:put, :shown})
      {:status, ^pid, _, [_, _, _, _, status]} = :sys.get_status(pid)

      assert {~c"State", :shown} in Enum.concat(for {:data, data} <- status, do: data)
      refute inspect(status) =~ "StateManager.Store"
    end

    test "the server is registered under its module or under :name", %{tmp_dir: dir} do
      pid = start_supervised!({Keeper, checkpoint_dir: Path.join(dir, "1")})
      assert Process.whereis(Keeper) == pid

      assert {:error, {:already_started, ^pid}} =
               Keeper.start_link(checkpoint_dir: Path.join(dir, "2"))

      name = unique_name("keeper")
      other = start_supervised!({Keeper, checkpoint_dir: Path.join(dir, "3"), name: name})
      assert Process.whereis(name) == other
      assert StateManager.checkpoint(name) == :ok
    end

    test "the child specification takes the options of use, and :name is its id" do
      defmodule Specified do
        use Foundation.StateManager, restart: :transient, shutdown: 1, checkpoint_dir: "d"
        def initial_state(_), do: nil
      end

      assert %{id: Specified, restart: :transient, shutdown: 1} = Specified.child_spec([])
      assert %{id: :other} = Specified.child_spec(name: :other)
      assert %{shutdown: 30_000, start: {Keeper, :start_link, [[]]}} = Keeper.child_spec([])
    end

    test "the exit of a linked process stops the server unless it is normal",
         %{tmp_dir: dir} do
      pid = start(dir)
      ref = Process.monitor(pid)
      link = fn state -> {:reply, spawn_link(fn -> receive(do: (r -> exit(r))) end), state} end

      send(GenServer.call(pid, {:run, link}), :normal)
      assert GenServer.call(pid, :get) == :initial
      send(GenServer.call(pid, {:run, link}), :shutdown)
      assert_receive {:DOWN, ^ref, _, _, :shutdown}
    end

    test "a module with its own handle_info/2 gets exit messages", %{tmp_dir: dir} do
      pid = start_supervised!({Listener, name: nil, checkpoint_dir: dir})
      send(pid, {:EXIT, self(), :some_reason})
      assert [{:EXIT, _, :some_reason} | _] = GenServer.call(pid, :get)
    end

    test "the callbacks can be called directly without the server process" do
      assert Keeper.init(begin: 1) == {:ok, 1}
    end
  end

  describe "misuse" do
    test "a missing directory raises" do
      assert_raise ArgumentError,
                   "expected :checkpoint_dir of the options of #{inspect(Keeper)} " <>
                     "to be a string, got: nil",
                   fn -> Keeper.start_link([]) end
    end

    test "an invalid interval raises", %{tmp_dir: dir} do
      assert_raise ArgumentError, ~r/expected :checkpoint_interval .* got: 0/, fn ->
        Keeper.start_link(checkpoint_dir: dir, checkpoint_interval: 0)
      end

      for interval <- [2 ** 32, 10 ** 13, 2 ** 64, -1] do
        message =
          "expected :checkpoint_interval of the options of Foundation.StateManagerTest.Keeper to " <>
            "be an integer from 1 to 4294967295 or :infinity, got: #{interval}"

        assert_raise ArgumentError, message, fn ->
          Keeper.start_link(checkpoint_dir: dir, checkpoint_interval: interval)
        end
      end

      start(dir, checkpoint_interval: 2 ** 32 - 1)
    end

    test "an invalid timeout of checkpoint/2 raises", %{tmp_dir: dir} do
      pid = start(dir)
      assert StateManager.checkpoint(pid, 2 ** 32 - 1) == :ok

      for timeout <- [-1, 2 ** 32, 10 ** 13, 1.5, nil] do
        message =
          "expected the timeout of checkpoint/2 to be an integer from 0 to 4294967295 or " <>
            ":infinity, got: #{inspect(timeout)}"

        assert_raise ArgumentError, message, fn -> StateManager.checkpoint(pid, timeout) end
      end
    end

    test "options that are not a keyword list raise" do
      assert_raise ArgumentError, ~r/keyword list, got: :x/, fn -> Keeper.start_link(:x) end
    end

    test "a directory that cannot be created fails the start with the reason", %{tmp_dir: dir} do
      Process.flag(:trap_exit, true)
      file = Path.join(dir, "file")
      File.write!(file, "")
      below = Path.join(file, "below")

      assert {:error, {:checkpoint_dir, ^below, :enotdir}} =
               Keeper.start_link(checkpoint_dir: below, name: nil)
    end

    test "a module that defines init/1 does not compile" do
      assert_raise CompileError, ~r/to define initial_state\/1 and no init\/1/, fn ->
        Code.eval_string("""
        defmodule #{inspect(__MODULE__)}.Init do
          use Foundation.StateManager
          def initial_state(_), do: nil
          def init(_), do: {:ok, nil}
        end
        """)
      end
    end

    test "an invalid option of use does not compile" do
      assert_raise ArgumentError, ~r/expected :checkpoint_interval of `use/, fn ->
        Code.eval_string("""
        defmodule #{inspect(__MODULE__)}.Wrong do
          use Foundation.StateManager, checkpoint_interval: "1"
        end
        """)
      end
    end
  end
end
