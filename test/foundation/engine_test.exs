defmodule Foundation.EngineTest do
  # Each test starts a VM of its own, on a copy of the application that it may spoil.
  use ExUnit.Case, async: true

  # One line a fact: what the application says of itself after its start.
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

  # Everything the other VM prints, its log included.
  defp vm(app, code \\ @report, flags \\ []) do
    telemetry = Application.app_dir(:telemetry, "ebin")
    paths = ["-pa", Path.join(app, "ebin"), "-pa", telemetry]
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
    test "takes the library", %{app: app} do
      output = vm(app)

      assert output =~ "engine: native"
      assert output =~ "library: #{Foundation.version()}"
      assert warnings(output) == 0
    end

    test "falls back to ETS with one warning where there is no library", context do
      File.rm!(context.library)
      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ "library: none"
      assert output =~ "there is no library #{context.library}"
      assert warnings(output) == 1
    end

    test "falls back to ETS where the library is of another version", context do
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

    test "falls back to ETS where the library is none", context do
      File.write!(context.library, "not a library")
      output = vm(context.app)

      assert output =~ "engine: ets"
      assert output =~ ~r/cannot be used: .*(ELF|file too short|mach-o)/
      assert warnings(output) == 1
    end
  end

  describe "engine: :native" do
    test "takes the library", %{app: app} do
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

    test "does without a library", context do
      File.rm!(context.library)
      output = vm(context.app, @report, engine(:ets))

      assert output =~ "engine: ets"
      assert warnings(output) == 0
    end
  end

  test "an engine that does not exist stops the start", %{app: app} do
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

  describe "Foundation.Native loaded anew" do
    @version "IO.puts(\"library: \#{Foundation.Native.library_version() || \"none\"}\")\n"
    @anew ":code.purge(Foundation.Native); :code.delete(Foundation.Native)\n"

    test "after it was deleted takes its library back", %{app: app} do
      output = vm(app, @report <> @anew <> @version <> @anew <> @version)

      assert length(String.split(output, "library: #{Foundation.version()}")) == 4
      refute output =~ "[error]"
    end

    test "over itself is refused, and goes on as it was", %{app: app} do
      output = vm(app, @report <> "IO.inspect(:code.load_file(Foundation.Native))\n" <> @version)

      assert length(String.split(output, "library: #{Foundation.version()}")) == 3
      assert output =~ "was not loaded anew"
    end

    test "is itself also while others call it", %{app: app} do
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
            IO.inspect(callers |> Task.await_many() |> Enum.concat() |> Enum.uniq(), label: "seen")
            """
        )

      assert output =~ ~s(seen: ["#{Foundation.version()}"])
    end

    @tag :linux
    test "leaves the library in memory meanwhile", %{app: app} do
      mapped = "IO.puts(\"mapped: \#{File.read!(\"/proc/self/maps\") =~ \"foundation_nif\"}\")\n"
      # Not loaded again after this: nothing calls it.
      output = vm(app, @report <> @anew <> ":code.purge(Foundation.Native)\n" <> mapped)

      assert output =~ "mapped: true"
    end
  end
end
