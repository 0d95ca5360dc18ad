defmodule Foundation.EngineTest do
  # Each test starts a VM of its own, with a copy of the application that it may damage.
  use ExUnit.Case, async: true

  # Prints facts about the application after its start, one per line.
  @report """
  case Application.ensure_all_started(:foundation) do
    {:ok, _} ->
      IO.puts("engine: \#{Foundation.engine()}")
      IO.puts("library: \#{Foundation.Native.library_version() || "none"}")

    {:error, reason} ->
      IO.puts("refused: \#{inspect(reason)}")
  end
  """

  setup_all do
    if Foundation.engine() == :native, do: :ok, else: {:skip, "there is no library"}
  end

  setup do
    root =
      Path.join(
        System.tmp_dir!(),
        "foundation_engine_#{System.unique_integer([:positive])}_#{System.pid()}"
      )

    app = Path.join(root, "foundation")
    File.mkdir_p!(Path.join(app, "priv/native"))
    File.cp_r!(Application.app_dir(:foundation, "ebin"), Path.join(app, "ebin"))
    {:ok, library} = Foundation.Native.Library.path()
    copy = Path.join([app, "priv/native", Path.basename(library) <> ".so"])
    File.cp!(library <> ".so", copy)
    on_exit(fn -> File.rm_rf!(root) end)

    %{app: app, library: copy}
  end

  # Everything that the other VM prints, with its log.
  defp vm(app, code \\ @report, flags \\ []) do
    telemetry = Application.app_dir(:telemetry, "ebin")
    vm_with(["-pa", Path.join(app, "ebin"), "-pa", telemetry], code, flags)
  end

  defp vm_with(paths, code, flags) do
    erl = ["--erl", Enum.join(["-kernel logger_level warning" | flags], " ")]

    {output, 0} =
      System.cmd("elixir", paths ++ erl ++ ["-e", code],
        stderr_to_stdout: true,
        env: [{"ERL_LIBS", nil}, {"MIX_ENV", nil}]
      )

    output
  end

  defp engine(engine), do: ["-foundation engine #{engine}"]

  defp warnings(output), do: output |> String.split("[warning]") |> length() |> Kernel.-(1)

  describe "engine: :auto" do
    test "uses the library", %{app: app} do
      output = vm(app)

      assert output =~ "engine: native"
      assert output =~ "library: #{Foundation.version()}"
      assert warnings(output) == 0
    end

    # As in an application with `config :foundation, native: false`.
    test "takes ETS without a warning when it was compiled without the library", %{app: app} do
      ebin = Path.join(app, "ebin")
      # Both branches of the module are expanded.
      precompiled = Path.join(Mix.Project.build_path(), "lib/rustler_precompiled/ebin")
      source = Path.expand("lib/foundation/native/library.ex")

      compile = """
        Application.put_env(:foundation, :native, false)
        Code.put_compiler_option(:ignore_module_conflict, true)

        for {module, beam} <- Code.compile_file(#{inspect(source)}),
            do: File.write!(Path.join(#{inspect(ebin)}, "\#{module}.beam"), beam)
      """

      assert vm_with(["-pa", ebin, "-pa", precompiled], compile, []) == ""
      output = vm(app)
      assert output =~ "engine: ets"
      assert output =~ "library: none"
      assert warnings(output) == 0
      assert vm(app, @report, engine(:ets)) =~ "engine: ets"
      assert vm(app, @report, engine(:native)) =~ "it was compiled without the native library"
    end

    test "falls back to ETS with one warning when the library is missing", context do
      File.rm!(context.library)
      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ "library: none"
      assert output =~ "there is no library #{context.library}"
      assert warnings(output) == 1
    end

    test "falls back to ETS when the library has another version", context do
      resource = Path.join(context.app, "ebin/foundation.app")
      version = inspect(Foundation.version())
      text = File.read!(resource)
      File.write!(resource, String.replace(text, "{vsn,#{version}}", ~s({vsn,"9.8.7"})))
      assert File.read!(resource) != text

      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ "library: none"
      assert output =~ "is not of version 9.8.7"
      assert warnings(output) == 1
    end

    test "falls back to ETS when the file is not a library", context do
      File.write!(context.library, "not a library")
      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ "the library #{context.library} is damaged"
      assert warnings(output) == 1
    end

    # The system maps such a file, and the VM would crash at the first access to the missing part.
    test "falls back to ETS when the library is truncated", context do
      whole = File.read!(context.library)

      for part <- [2, 10, 100] do
        File.write!(context.library, binary_part(whole, 0, div(byte_size(whole), part)))
        output = vm(context.app)

        assert output =~ "engine: ets"
        assert output =~ "(#{div(byte_size(whole), part)} bytes, compiled: #{byte_size(whole)})"
        assert warnings(output) == 1
      end
    end

    test "falls back to ETS when one byte of the library has changed", context do
      whole = File.read!(context.library)
      at = div(byte_size(whole), 2)
      before = binary_part(whole, 0, at)
      <<byte, rest::binary>> = binary_part(whole, at, byte_size(whole) - at)
      File.write!(context.library, [before, Bitwise.bxor(byte, 1), rest])
      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ "is damaged"
    end

    # An escript, or a release with all modules in one directory, has such a layout.
    test "falls back to ETS when the application's directory is unknown", context do
      flat = Path.join(Path.dirname(context.app), "flat")
      File.mkdir_p!(flat)

      for ebin <- [Path.join(context.app, "ebin"), Application.app_dir(:telemetry, "ebin")],
          file <- Path.wildcard(Path.join(ebin, "*")),
          do: File.cp!(file, Path.join(flat, Path.basename(file)))

      output = vm_with(["-pa", flat], @report, [])

      assert output =~ "engine: ets"
      assert output =~ "the directory of :foundation is unknown"
      assert warnings(output) == 1
    end
  end

  describe "engine: :native" do
    test "uses the library", %{app: app} do
      assert vm(app, @report, engine(:native)) =~ "engine: native"
    end

    test "does not start without the library, and says why", context do
      File.rm!(context.library)
      output = vm(context.app, @report, engine(:native))

      assert output =~ "refused: "
      assert output =~ "config :foundation, engine: :native, but there is no library"
      assert output =~ context.library
      refute output =~ "engine: " <> "ets"
    end
  end

  describe "engine: :ets" do
    test "does not load the library", %{app: app} do
      output = vm(app, @report, engine(:ets))

      assert output =~ "engine: ets"
      assert output =~ "library: none"
      assert warnings(output) == 0
    end

    test "works without a library", context do
      File.rm!(context.library)
      output = vm(context.app, @report, engine(:ets))

      assert output =~ "engine: ets"
      assert warnings(output) == 0
    end
  end

  test "an unknown engine fails the start", %{app: app} do
    output = vm(app, @report, engine(:rust))

    assert output =~
             "expected :engine of config :foundation to be :auto, :native or :ets, got: :rust"
  end

  test "no engine is selected before the application starts", %{app: app} do
    output = vm(app, "try do Foundation.engine() rescue e -> IO.puts(Exception.message(e)) end")
    assert output =~ "the :foundation application has not been started"
  end

  test "the application can be stopped and started again, on another engine too", %{app: app} do
    again = """
    Application.stop(:foundation)
    Application.put_env(:foundation, :engine, :ets)
    Application.ensure_all_started(:foundation)
    IO.puts("then: \#{Foundation.engine()}")
    Application.stop(:foundation)
    Application.put_env(:foundation, :engine, :native)
    Application.ensure_all_started(:foundation)
    IO.puts("at last: \#{Foundation.engine()}")
    """

    output = vm(app, @report <> again)
    assert output =~ "engine: native"
    assert output =~ "then: ets"
    assert output =~ "at last: native"
  end

  describe "an event log without the library" do
    @start_log """
    {:ok, _} = Application.ensure_all_started(:foundation)
    Process.flag(:trap_exit, true)
    dir = Path.join(System.tmp_dir!(), "foundation_no_log_#{System.pid()}")
    options = [name: :no_log, dir: dir]
    IO.inspect(Foundation.EventLog.start_link(options), label: "start")
    IO.inspect(Supervisor.start_link([{Foundation.EventLog, options}], strategy: :one_for_one), label: "child")
    IO.inspect({Process.whereis(:no_log), File.exists?(dir)}, label: "left")
    """

    test "returns an error that names the cause, and leaves nothing", context do
      # A missing library, and one that is not wanted.
      selected = vm(context.app, @start_log, engine(:ets))
      needs = "an event log needs the native engine, and"
      assert selected =~ ~r/start: {:error,\s+{:engine,\s+"#{needs} :ets is selected"/
      File.rm!(context.library)
      missing = vm(context.app, @start_log)
      assert missing =~ ~r/start: {:error,\s+{:engine,\s+"#{needs} there is no library/

      for output <- [selected, missing] do
        assert output =~ ~r/child: {:error,\s.*{:engine,\s+"/s
        assert output =~ "left: {nil, false}"
      end
    end
  end

  describe "Foundation.Native reloaded" do
    @version "IO.puts(\"library: \#{Foundation.Native.library_version() || \"none\"}\")\n"
    @anew ":code.purge(Foundation.Native); :code.delete(Foundation.Native)\n"

    test "after a delete gets its library back", %{app: app} do
      output = vm(app, @report <> @anew <> @version <> @anew <> @version)

      assert length(String.split(output, "library: #{Foundation.version()}")) == 4
      refute output =~ "[error]"
    end

    test "a second time is refused, and the first stays loaded", %{app: app} do
      output = vm(app, @report <> "IO.inspect(:code.load_file(Foundation.Native))\n" <> @version)

      assert length(String.split(output, "library: #{Foundation.version()}")) == 3
      assert output =~ "was not reloaded"
    end

    test "keeps its library while other processes call it", %{app: app} do
      output =
        vm(
          app,
          @report <>
            """
            table = :ets.new(:running, [:public])
            :ets.insert(table, {:running, true})

            versions = fn versions, seen ->
            seen = MapSet.put(seen, Foundation.Native.library_version())
            if :ets.member(table, :running), do: versions.(versions, seen), else: seen
            end

            callers = for _ <- 1..4, do: Task.async(fn -> versions.(versions, MapSet.new()) end)
            #{@anew}
            Foundation.Native.library_version()
            :ets.delete(table, :running)
            seen = callers |> Task.await_many(30_000) |> Enum.concat() |> Enum.uniq()
            IO.inspect(seen, label: "seen")
            """
        )

      assert output =~ ~s(seen: ["#{Foundation.version()}"])
    end

    # Processes read, change, walk and die in a registry all the time. None of them may see a wrong
    # answer or an error.
    @filled """
    alias Foundation.{Native, Registry}
    main = self()
    {:ok, owner} = Registry.start_link(keys: :unique, name: :filled)

    holder =
      spawn(fn ->
        for key <- 1..2_000, do: {:ok, _} = Registry.register(:filled, {:key, key}, %{key => key})
        send(main, :filled)
        Process.sleep(:infinity)
      end)

    receive do: (:filled -> :ok)
    done = :counters.new(4, [])
    spec = [{{{:key, :"$1"}, :_, :_}, [], [:"$1"]}]

    work = [
      fn ->
        key = :rand.uniform(2_000)
        [{^holder, %{^key => ^key}}] = Registry.lookup(:filled, {:key, key})
      end,
      fn ->
        {:ok, _} = Registry.register(:filled, {self(), 1}, make_ref())
        :ok = Registry.unregister(:filled, {self(), 1})
      end,
      fn -> 2_000 = length(Registry.select(:filled, spec)) end,
      fn ->
        {pid, ref} = spawn_monitor(fn -> {:ok, _} = Registry.register(:filled, self(), nil) end)
        receive do: ({:DOWN, ^ref, _, _, reason} -> :normal = reason)
        [] = Registry.lookup(:filled, pid)
      end
    ]

    forever = fn forever, place, fun ->
      fun.()
      :counters.add(done, place, 1)
      forever.(forever, place, fun)
    end

    workers =
      for {fun, place} <- Enum.with_index(work, 1),
          do: spawn(fn -> forever.(forever, place, fun) end)

    # Returns when each process has done something since.
    worked = fn worked, before ->
      now = for place <- 1..4, do: :counters.get(done, place)
      moved = Enum.zip_with(now, before, &>/2)

      cond do
        not Enum.all?([holder, owner | workers], &Process.alive?/1) -> IO.puts("died")
        Enum.all?(moved) -> :ok
        true -> worked.(worked, before)
      end
    end

    work_on = fn -> worked.(worked, for(place <- 1..4, do: :counters.get(done, place))) end
    """

    # The VM of the test and the load in it share the cores with the other tests.
    @tag timeout: 300_000
    test "under load keeps the entries and breaks no call", %{app: app} do
      output =
        vm(
          app,
          @report <>
            @filled <>
            """
            for round <- 1..20 do
              case rem(round, 4) do
                0 ->
                  :code.purge(Native)
                  :code.delete(Native)

                1 ->
                  :code.purge(Native)
                  :code.delete(Native)
                  :code.purge(Native)

                2 ->
                  true = :code.soft_purge(Native)
                  :code.delete(Native)

                # Loading the library over itself is refused.
                3 ->
                  {:error, :on_load_failure} = :code.load_file(Native)
              end

              work_on.()
            end

            :ok = Application.stop(:foundation)
            work_on.()
            {:ok, _} = Application.ensure_all_started(:foundation)
            work_on.()
            IO.puts("kept: \#{Registry.count_select(:filled, [{{{:key, :_}, :_, :_}, [], [true]}])}")
            """,
          ["-kernel logger_level critical"]
        )

      assert output =~ "kept: 2000"
      refute output =~ "died"
    end

    # Tables of three loads of the library. Each is used after every later load.
    test "keeps concurrent tables made before and after the reload", %{app: app} do
      output =
        vm(
          app,
          """
          {:ok, _} = Application.ensure_all_started(:foundation)
          alias Foundation.ConcurrentRegistry, as: Table

          make = fn name ->
            table = Table.new()
            :ok = Table.put(table, :name, name)
            table
          end

          mortal = fn ->
            test = self()

            owner = spawn(fn ->
              send(test, {:made, make.(:mortal)})
              receive do: (:stop -> :ok)
            end)

            receive do: ({:made, table} -> {owner, table})
          end

          end_of = fn {owner, table} ->
            ref = Process.monitor(owner)
            send(owner, :stop)
            receive do: ({:DOWN, ^ref, :process, _, _} -> :ok)
            {:error, %ArgumentError{}} = try do
              {:ok, Table.size(table)}
            rescue
              error -> {:error, error}
            end
          end

          {:ok, owner} = Table.start_link(name: :named)
          :ok = Table.put(:named, :name, :named)
          Process.unlink(owner)

          first = make.(:first)
          dies = mortal.()
          #{@anew}
          second = make.(:second)
          IO.inspect({Table.get(first, :name), Table.update(first, :n, 1, & &1 + 1)})
          #{@anew}
          third = make.(:third)
          for table <- [first, second, third],
              do: IO.inspect({Table.get(table, :name), Table.size(table)})
          IO.inspect(Table.stream(first) |> Enum.sort())
          end_of.(dies)
          IO.puts("ended")

          ref = Process.monitor(owner)
          Process.exit(owner, :kill)
          receive do: ({:DOWN, ^ref, :process, _, _} -> :ok)
          {:ok, next} = Table.start_link(name: :named)
          IO.inspect({:adopted, Table.get(:named, :name)})
          :ok = GenServer.stop(next)
          {:error, %ArgumentError{}} = try do
            {:ok, Table.size(:named)}
          rescue
            error -> {:error, error}
          end

          # A resource type without tables is released, and the next loads succeed.
          for n <- 1..50 do
            table = make.(n)
            #{@anew}
            ^n = Table.get(table, :name)
            :erlang.garbage_collect()
          end

          IO.inspect({:at_last, Table.get(first, :name), Table.get(third, :name)})
          """
        )

      assert output =~ "{:first, 1}"
      assert output =~ "{:first, 2}"
      assert output =~ "{:second, 1}"
      assert output =~ "{:third, 1}"
      assert output =~ "[n: 1, name: :first]"
      assert output =~ "ended"
      assert output =~ "{:adopted, :named}"
      assert output =~ "{:at_last, :first, :third}"
    end

    test "without its library raises for each call of a concurrent table", %{app: app} do
      output =
        vm(
          app,
          """
          {:ok, _} = Application.ensure_all_started(:foundation)
          alias Foundation.ConcurrentRegistry, as: Table
          table = Table.new(engine: :native)
          :ok = Table.put(table, :key, 1)
          {path, version, instance} = :persistent_term.get(Foundation.Native)
          :persistent_term.put(Foundation.Native, {path <> "_away", version, instance})
          #{@anew}

          calls = [
            get: fn -> Table.get(table, :key) end,
            put: fn -> Table.put(table, :key, 2) end,
            put_new: fn -> Table.put_new(table, :other, 2) end,
            update: fn -> Table.update(table, :key, 1, & &1) end,
            delete: fn -> Table.delete(table, :key) end,
            size: fn -> Table.size(table) end,
            stream: fn -> table |> Table.stream() |> Enum.to_list() end
          ]

          for {name, call} <- calls do
            answer = try do
              call.()
            rescue
              error in ArgumentError -> Exception.message(error)
            end

            IO.puts("\#{name}: \#{inspect(answer)}")
          end
          """
        )

      for name <- [:get, :put, :put_new, :update, :delete, :size, :stream],
          do: assert(output =~ "#{name}: \"this table cannot be reached")
    end

    test "refuses another library, with a message", context do
      other = String.replace_suffix(context.library, ".so", "_built_anew.so")
      File.cp!(context.library, other)

      output =
        vm(
          context.app,
          @report <>
            """
            {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: :kept)
            {path, version, instance} = :persistent_term.get(Foundation.Native)
            :persistent_term.put(Foundation.Native, {path <> "_built_anew", version, instance})
            #{@anew}
            #{@version}
            :persistent_term.put(Foundation.Native, {path, version, instance})
            #{@anew}
            #{@version}
            IO.inspect(Foundation.Registry.count(:kept), label: "count")
            """
        )

      assert output =~ "_built_anew is another one than was loaded, without its tables"
      assert output =~ ~r/library: none.*library: #{Foundation.version()}.*count: 0/s
    end

    test "with its file replaced keeps the tables or reports them as unreachable", context do
      output =
        vm(
          context.app,
          @report <>
            """
            {:ok, _} = Foundation.Registry.start_link(keys: :unique, name: :kept)
            {:ok, _} = Foundation.Registry.register(:kept, :key, :value)
            library = #{inspect(context.library)}
            File.cp!(library, library <> ".new")
            File.rename!(library <> ".new", library)
            #{@anew}
            #{@version}
            if Foundation.Native.library_version(),
              do: IO.inspect(Foundation.Registry.count(:kept), label: "count")
            """
        )

      assert output =~ "count: 1" or output =~ "is another one than was loaded"
    end

    test "of another version does not take over the library", context do
      source = Path.expand("../../lib/foundation/native.ex", __DIR__)
      other = String.replace(File.read!(source), "Mix.Project.config()[:version]", ~s("9.8.7"))

      output =
        vm(
          context.app,
          @report <>
            """
            beam = :code.which(Foundation.Native)
            before = File.read!(beam)
            [{_, other}] = Code.compile_string(#{inspect(other, printable_limit: :infinity)})
            File.write!(beam, other)
            #{@anew}
            #{@version}
            File.write!(beam, before)
            #{@anew}
            #{@version}
            """
        )

      assert output =~
               "could not take its library back: it is of version #{Foundation.version()}, and this " <>
                 "module of 9.8.7"

      assert output =~ ~r/library: none.*library: #{Foundation.version()}/s
    end

    @tag :linux
    test "keeps the library in memory meanwhile", %{app: app} do
      mapped = "IO.puts(\"mapped: \#{File.read!(\"/proc/self/maps\") =~ \"foundation_nif\"}\")\n"
      # Nothing calls the module afterwards, so it is not loaded again.
      output = vm(app, @report <> @anew <> ":code.purge(Foundation.Native)\n" <> mapped)

      assert output =~ "mapped: true"
    end
  end
end
