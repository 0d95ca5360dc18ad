defmodule Mix.Tasks.Foundation.AuditTest do
  # Not async: standard error, the working directory and the application's environment are global.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Mix.Tasks.Foundation.Audit

  @moduletag :tmp_dir

  setup %{tmp_dir: dir} do
    File.mkdir_p!(Path.join(dir, "lib/legacy"))
    File.write!(Path.join(dir, "lib/a.ex"), "x = 1\n:a |> Process.put(x)\n")
    File.write!(Path.join(dir, "lib/legacy/b.ex"), ":erlang.get(:\"é\\\"\")\n")
    File.write!(Path.join(dir, "lib/clean.ex"), "Map.get(m, :a)\n")
    on_exit(fn -> Application.delete_env(:foundation, :audit) end)
    %{lib: Path.join(dir, "lib")}
  end

  # {exit status, standard output, standard error}
  defp audit(arguments) do
    {{status, output}, errors} =
      with_io(:stderr, fn ->
        with_io(fn ->
          try do
            :ok = Audit.run(arguments)
            0
          catch
            :exit, {:shutdown, status} -> status
          end
        end)
      end)

    {status, output, errors}
  end

  test "findings are printed with file, line and replacement, and the status is 1", c do
    assert {1, output, ""} = audit([c.lib])

    assert [first, second, "2 uses of the process dictionary in 3 files."] =
             String.split(output, "\n", trim: true)

    assert first =~ "#{c.lib}/a.ex:2: Process.put/2 - keep shared state in Foundation."
    assert second =~ "#{c.lib}/legacy/b.ex:1: :erlang.get/1 - "
  end

  test "the status is 0 without findings", c do
    assert audit([Path.join(c.lib, "clean.ex")]) ==
             {0, "No use of the process dictionary in 1 file.\n", ""}
  end

  test "--allow can be given several times", c do
    assert {1, output, ""} = audit([c.lib, "--allow", "**/legacy/*"])
    assert output =~ "1 use of the process dictionary in 2 files."
    assert {0, _, ""} = audit(["--allow", "**/legacy/*", c.lib, "--allow=**/a.ex"])
  end

  test "--format json prints one object and nothing else on standard output", c do
    assert {1, output, ""} = audit([c.lib, "--format", "json"])

    assert output ==
             ~s({"findings":[) <>
               ~s({"file":"#{c.lib}/a.ex","line":2,"call":"Process.put/2","suggestion":"#{suggestion("put")}"},) <>
               ~s({"file":"#{c.lib}/legacy/b.ex","line":1,"call":":erlang.get/1","suggestion":"#{suggestion("get")}"}) <>
               "]}\n"

    assert {0, ~s({"findings":[]}\n), ""} =
             audit([Path.join(c.lib, "clean.ex"), "--format", "json"])
  end

  defp suggestion(function), do: Foundation.Audit.Calls.suggestion(function)

  test "--help and -h print the usage on standard output, and audit nothing", c do
    for help <- ["--help", "-h"] do
      assert {0, output, ""} = audit([help, c.lib])
      assert output =~ "usage: mix foundation.audit [PATH...]"
      refute output =~ "Process.put"
    end
  end

  test "misuse prints the mistake and the usage on standard error, and the status is 2", c do
    for {arguments, message} <- [
          {["--alow", "x"], "unknown option or missing value: --alow"},
          {["--allow"], "unknown option or missing value: --allow"},
          {["--format", "xml"], "expected --format to be text or json, got: xml"}
        ] do
      assert {2, "", errors} = audit([c.lib | arguments])
      assert errors =~ message
      assert errors =~ "usage: mix foundation.audit"
    end
  end

  test "a missing path gives status 2, and the other paths are still reported", c do
    assert {2, output, errors} = audit(["no/such", c.lib])
    assert errors == "** no/such: no such file or directory\n"
    assert output =~ "2 uses"
  end

  test "an unreadable file is not reported as clean", c do
    bad = Path.join(c.lib, "bad.ex")
    File.write!(bad, "def f(\n")

    assert {2, "", _errors} = audit(["no/such"])
    assert {2, "", _errors} = audit([bad])
    assert {2, "{\"findings\":[]}\n", _errors} = audit([bad, "--format", "json"])
  end

  test "a file that does not parse gives status 2 and its line, and JSON stays the only output",
       c do
    bad = Path.join(c.lib, "bad.ex")
    File.write!(bad, "def f(\n")
    assert {2, output, errors} = audit([c.lib, "--format", "json"])
    assert errors =~ ~r/^\*\* #{Regex.escape(bad)}:\d: /
    assert output =~ ~r/\A\{"findings":\[.*\]\}\n\z/
  end

  test "an allow list in the application's configuration is used, and --allow adds to it", c do
    Application.put_env(:foundation, :audit, allow: ["**/legacy/**"])
    assert {1, output, ""} = audit([c.lib])
    assert output =~ "1 use "
    assert {0, _, ""} = audit([c.lib, "--allow", "**/a.ex"])
  end

  test "an allow list in the configuration that is not a list of globs is misuse", c do
    for {wrong, message} <- [
          {"lib/**", "expected :audit of config :foundation to be a keyword list"},
          {[allow: "lib/**"], "expected :allow of :audit of config :foundation to be a list"},
          {[alow: []], "got: :alow, did you mean :allow?"}
        ] do
      Application.put_env(:foundation, :audit, wrong)
      assert {2, "", errors} = audit([c.lib])
      assert errors =~ message
    end
  end

  describe "in a project" do
    defp project(dir, name, keys) do
      body = "[app: :#{name}, version: \"1.0.0\"#{keys}]"
      module = "Foundation.AuditTest.#{Macro.camelize(name)}"

      File.write!(
        Path.join(dir, "mix.exs"),
        "defmodule #{module} do\n  use Mix.Project\n  def project, do: #{body}\nend\n"
      )

      String.to_atom(name)
    end

    test "the project's own sources are audited without a path", %{tmp_dir: dir} do
      app = project(dir, "audited_plain", "")

      Mix.Project.in_project(app, dir, fn _ ->
        assert {1, output, ""} = audit([])
        assert output =~ "lib/a.ex:2: "
        assert output =~ "in 3 files"
      end)
    end

    test "an allow list in mix.exs is used", %{tmp_dir: dir} do
      keys = ", foundation_audit: [allow: [\"lib/legacy\", \"lib/a.ex\"]]"
      app = project(dir, "audited_allowing", keys)
      Mix.Project.in_project(app, dir, fn _ -> assert {0, _, ""} = audit([]) end)
    end

    test "an allow list in mix.exs that is not a list of globs is misuse", %{tmp_dir: dir} do
      app = project(dir, "audited_wrong", ", foundation_audit: [allow: :all]")

      Mix.Project.in_project(app, dir, fn _ ->
        assert {2, "", errors} = audit([])
        assert errors =~ "expected :allow of :foundation_audit of mix.exs to be a list"
      end)
    end

    test "the configured source directories are audited", %{tmp_dir: dir} do
      app = project(dir, "audited_paths", ", elixirc_paths: [\"lib/legacy\", \"missing\"]")

      Mix.Project.in_project(app, dir, fn _ ->
        assert {1, output, ""} = audit([])
        assert output =~ ~r/\Alib\/legacy\/b.ex:1: .*\n1 use of the process dictionary in 1 file/
      end)
    end

    test "the sources of an umbrella are those of its applications", %{tmp_dir: dir} do
      one = Path.join(dir, "apps/audited_one")
      File.mkdir_p!(Path.join(one, "source"))
      File.write!(Path.join(one, "source/c.ex"), "Process.get(:c)\n")
      project(one, "audited_one", ", elixirc_paths: [\"source\"]")
      app = project(dir, "audited_umbrella", ", apps_path: \"apps\"")

      Mix.Project.in_project(app, dir, fn _ ->
        assert {1, output, ""} = audit([])
        assert output =~ ~r/\Aapps\/audited_one\/source\/c.ex:1: .*\n1 use /
      end)
    end
  end
end
