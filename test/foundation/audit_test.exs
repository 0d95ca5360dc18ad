defmodule Foundation.AuditTest do
  use ExUnit.Case, async: true

  alias Foundation.Audit

  doctest Foundation.Audit

  @moduletag :tmp_dir

  defp write(dir, name, contents \\ "Process.get(:a)\n") do
    path = Path.join(dir, name)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, contents)
    path
  end

  defp files(result), do: Enum.map(result.findings, & &1.file)

  test "this project uses the process dictionary only in its legacy backends" do
    result = Audit.run(["lib"], allow: ["lib/foundation/legacy/*.ex"])
    assert result.findings == []
    assert result.problems == []
    assert result.files > 10
  end

  describe "file selection" do
    test "finds .ex and .exs files at any depth, sorted by name", %{tmp_dir: dir} do
      b = write(dir, "b.exs")
      a = write(dir, "a/deep/er/a.ex")
      write(dir, "c.eex")
      write(dir, "d.erl")
      write(dir, ".hidden/e.ex")
      write(dir, ".f.ex")
      assert files(Audit.run([dir])) == [a, b]
    end

    test "reads a file once when it is given twice", %{tmp_dir: dir} do
      a = write(dir, "a.ex")
      result = Audit.run([a, dir, Path.join(dir, "./a.ex")])
      assert {files(result), result.files} == {[a], 1}
    end

    test "skips deps and _build of a project, but not other directories of that name",
         %{tmp_dir: dir} do
      write(dir, "mix.exs", "")
      write(dir, "deps/x/a.ex")
      write(dir, "_build/b.ex")
      own = write(dir, "lib/deps/c.ex")
      assert files(Audit.run([dir])) == [own]
      assert files(Audit.run([Path.join(dir, "deps")])) == [Path.join(dir, "deps/x/a.ex")]
    end

    test "follows a symlink, and stops at one that forms a cycle", %{tmp_dir: dir} do
      a = write(dir, "lib/a.ex")
      File.ln_s!(Path.join(dir, "lib"), Path.join(dir, "lib/up"))
      other = write(dir, "other/b.ex")
      File.ln_s!(Path.dirname(other), Path.join(dir, "lib/other"))

      assert files(Audit.run([Path.join(dir, "lib")])) == [a, Path.join(dir, "lib/other/b.ex")]
    end

    test "takes glob characters in a path literally", %{tmp_dir: dir} do
      a = write(dir, "[x]{y}*/a?.ex")
      assert files(Audit.run([Path.join(dir, "[x]{y}*")])) == [a]
    end
  end

  describe "the :allow option" do
    setup %{tmp_dir: dir} do
      for name <- ~w(lib/a.ex lib/legacy/b.ex lib/legacy/deep/c.ex), do: write(dir, name)
      :ok
    end

    for {glob, left} <- [
          {"lib/a.ex", ~w(lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"lib/*.ex", ~w(lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"lib/*", ~w(lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"lib/*/?.ex", ~w(lib/a.ex lib/legacy/deep/c.ex)},
          {"lib/legacy/**", ~w(lib/a.ex)},
          {"lib/legacy", ~w(lib/a.ex)},
          {"lib/legacy/", ~w(lib/a.ex)},
          {"lib/../lib/legacy", ~w(lib/a.ex)},
          {"lib/**/c.ex", ~w(lib/a.ex lib/legacy/b.ex)},
          {"lib/**/a.ex", ~w(lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"lib/{a,legacy/b}.ex", ~w(lib/legacy/deep/c.ex)},
          {"lib/leg", ~w(lib/a.ex lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"lib/axex", ~w(lib/a.ex lib/legacy/b.ex lib/legacy/deep/c.ex)},
          {"**/*.ex", []}
        ] do
      test "#{glob} leaves #{inspect(left)}", %{tmp_dir: dir} do
        left = for name <- unquote(left), do: Path.join(dir, name)
        relative = Path.relative_to_cwd(dir)

        assert files(Audit.run([dir], allow: [Path.join(dir, unquote(glob))])) == left
        assert files(Audit.run([dir], allow: [Path.join(relative, unquote(glob))])) == left
      end
    end

    test "does not read an allowed file", %{tmp_dir: dir} do
      bad = write(dir, "bad.ex", "def f(")
      assert %{problems: []} = Audit.run([bad], allow: [bad])
    end

    test "allows the files of every glob, and no file for an empty list", %{tmp_dir: dir} do
      assert files(Audit.run([dir], allow: ["**/a.ex", "**/b.ex"])) ==
               [Path.join(dir, "lib/legacy/deep/c.ex")]

      assert length(files(Audit.run([dir], allow: []))) == 3
    end

    test "raises for any value but a list of globs" do
      assert_raise ArgumentError,
                   "expected :allow of the audit's options to be a list, each of it a string, " <>
                     "got: \"a\"",
                   fn -> Audit.run([], allow: "a") end

      assert_raise ArgumentError, ~r/got: :alow, did you mean :allow\?/, fn ->
        Audit.run([], alow: [])
      end
    end
  end

  describe "an unreadable path is reported and the other files are audited:" do
    test "a file that does not parse is reported with its line", %{tmp_dir: dir} do
      bad = write(dir, "a.ex", "defmodule A do\n  def f(\nend\n")
      good = write(dir, "b.ex")
      result = Audit.run([dir])
      assert files(result) == [good]
      assert [%{file: ^bad, line: line, message: message}] = result.problems
      assert line in 2..3
      assert message =~ ~r/unexpected|terminator/
    end

    test "a path that does not exist, or is no Elixir file", %{tmp_dir: dir} do
      missing = Path.join(dir, "missing")
      other = write(dir, "a.txt")
      good = write(dir, "a.ex")

      assert %{findings: [%{file: ^good}], problems: [first, second]} =
               Audit.run([missing, other, good])

      assert first == %{file: missing, line: nil, message: "no such file or directory"}
      assert %{file: ^other, message: "expected a directory, an .ex or an .exs file"} = second
    end

    test "a directory without read permission", %{tmp_dir: dir} do
      good = write(dir, "a.ex")
      closed = Path.join(dir, "closed")
      File.mkdir_p!(closed)
      File.chmod!(closed, 0)
      on_exit(fn -> File.chmod!(closed, 0o700) end)

      # Root can list every directory.
      if match?({:error, :eacces}, File.ls(closed)) do
        for path <- [dir, closed] do
          assert %{problems: [%{file: ^closed, message: "permission denied"}]} = Audit.run([path])
        end

        assert %{findings: [%{file: ^good}]} = Audit.run([dir])
      end
    end

    test "a pipe or a device, without waiting for it", %{tmp_dir: dir} do
      pipe = Path.join(dir, "pipe.ex")
      device = Path.join(dir, "zero.exs")
      {_, 0} = System.cmd("mkfifo", [pipe])
      File.ln_s!("/dev/zero", device)

      for paths <- [[dir], [pipe, device]] do
        assert %{findings: [], problems: [first, second]} = Audit.run(paths)
        assert first == %{file: pipe, line: nil, message: "is no regular file"}
        assert second == %{file: device, line: nil, message: "is no regular file"}
      end
    end

    test "a dangling symlink", %{tmp_dir: dir} do
      link = Path.join(dir, "a.ex")
      File.ln_s!("nothing", link)
      assert %{problems: [%{file: ^link}]} = Audit.run([dir])
    end

    for {name, bytes} <- [
          latin1: "# caf\xE9\nProcess.get(:a)\n",
          utf16: <<0xFF, 0xFE, ?a, 0>>,
          binary: <<0, 1, 2, 255, 254>>,
          bom: "\uFEFFx = 1",
          escape: ~S(?\u{FFFFFFFF}),
          atom: ":" <> String.duplicate("a", 300)
        ] do
      test "invalid encoding or content: #{name}", %{tmp_dir: dir} do
        path = write(dir, "a.ex", unquote(bytes))
        assert %{findings: [], problems: [%{file: ^path, message: message}]} = Audit.run([path])
        assert String.valid?(message) and message != ""
      end
    end

    test "random bytes", %{tmp_dir: dir} do
      source = File.read!(__ENV__.file)

      for index <- 1..150 do
        from = :rand.uniform(byte_size(source)) - 1
        length = :rand.uniform(2000)
        cut = binary_part(source, from, min(length, byte_size(source) - from))
        noise = :rand.bytes(:rand.uniform(4) - 1)
        path = write(dir, "#{index}.ex", noise <> cut)
        assert %{files: 1} = Audit.run([path])
      end
    end
  end

  test "audits a file of 250,000 lines to its end" do
    source = String.duplicate("foo(:a)\n", 250_000) <> "Process.get(:last)\n"
    assert {:ok, [%{line: 250_001}]} = Audit.scan(source, "a.ex")
  end

  test "audits nested code of any depth" do
    source = String.duplicate("(", 20_000) <> "Process.get(:a)" <> String.duplicate(")", 20_000)

    assert {:ok, [%{call: "Process.get/1"}]} = Audit.scan(source, "a.ex")
  end

  test "creates no atom from the content of a file" do
    name = fn kind -> "audit_#{kind}_#{System.unique_integer([:positive])}" end

    scan = fn ->
      Audit.scan(
        """
        defmodule #{Macro.camelize(name.("m"))} do
          alias #{Macro.camelize(name.("n"))}, as: X
          @#{name.("attribute")} :#{name.("atom")}
          def #{name.("function")}(#{name.("variable")}, a: :"#{name.("quoted")}"),
            do: x.#{name.("field")} + %{#{name.("key")}: 1} |> X.#{name.("call")}(&#{name.("f")}/1)
        end
        """,
        "a.ex"
      )
    end

    assert {:ok, []} = scan.()
    before = :erlang.system_info(:atom_count)
    for _ <- 1..1000, do: assert({:ok, []} = scan.())
    # A thousand scans read ten thousand names. Other tests may create some atoms meanwhile.
    assert :erlang.system_info(:atom_count) - before < 5_000
  end
end
