defmodule Foundation.OfflineProjectTest do
  # Not async: a second Mix needs both of two cores for a moment.
  use ExUnit.Case, async: false

  # A stand-in for cargo that only writes a library where cargo would.
  @cargo """
  #!/bin/sh
  mkdir -p "$CARGO_TARGET_DIR/release"
  for name in libfoundation_nif.so libfoundation_nif.dylib; do
    echo library > "$CARGO_TARGET_DIR/release/$name"
  done
  """

  # The line by which mix.exs loads offline mode.
  @line "mix.exs"
        |> File.read!()
        |> String.split("\n")
        |> Enum.find(&(&1 =~ "offline/project.exs"))

  @project """
  defmodule Foundation.MixProject do
    use Mix.Project
  #{@line}
    def project, do: [app: :fresh, version: "0.1.0", deps: [{:not_on_hex_either, "~> 1.0"}]]
  end
  """

  @lock ~s(%{"telemetry": {:hex, :telemetry, "1.3.0", "0", [:rebar3], [], "hexpm", "0"}}\n)

  @tag :tmp_dir
  test "the first build of a clone leaves the library where the application looks for it, " <>
         "and the lock as it was",
       %{tmp_dir: root} do
    for directory <- ["bin", "lib"], do: File.mkdir_p!(Path.join(root, directory))
    File.cp_r!("offline", Path.join(root, "offline"))
    File.write!(Path.join(root, "mix.exs"), @project)
    File.write!(Path.join(root, "mix.lock"), @lock)
    cargo = Path.join(root, "bin/cargo")
    File.write!(cargo, @cargo)
    File.chmod!(cargo, 0o755)

    environment = [
      {"PATH", "#{Path.dirname(cargo)}:#{System.get_env("PATH")}"},
      {"CARGO_TARGET_DIR", Path.join(root, "target")},
      {"CARGO_BUILD_TARGET", nil},
      {"FOUNDATION_OFFLINE", "1"},
      {"MIX_ENV", "dev"}
    ]

    mix = &System.cmd("mix", &1, cd: root, env: environment, stderr_to_stdout: true)

    assert {_output, 0} = mix.(["compile"])
    assert File.exists?(Path.join(root, "_build/dev/lib/fresh/priv/native/foundation_nif.so"))

    assert {_output, 0} = mix.(["do", "deps.get,", "deps.unlock", "--all"])
    assert File.read!(Path.join(root, "mix.lock")) == @lock
  end
end
