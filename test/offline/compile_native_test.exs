defmodule Foundation.CompileNativeTest do
  # async: false, because a second Mix needs both of two cores for a moment.
  use ExUnit.Case, async: false

  # cargo that has nothing to do but to leave a library where the real one would.
  @cargo """
  #!/bin/sh
  mkdir -p "$CARGO_TARGET_DIR/release"
  for name in libfoundation_nif.so libfoundation_nif.dylib; do
    echo library > "$CARGO_TARGET_DIR/release/$name"
  done
  """

  @project """
  defmodule Fresh.MixProject do
    use Mix.Project
    Code.require_file("offline/compile_native.exs", __DIR__)
    def project, do: [app: :fresh, version: "0.1.0", compilers: [:foundation_native | Mix.compilers()]]
  end
  """

  @tag :tmp_dir
  test "the first build of a clone leaves the library where the application looks for it",
       %{tmp_dir: root} do
    for directory <- ["offline", "bin", "lib"], do: File.mkdir_p!(Path.join(root, directory))
    File.cp!("offline/compile_native.exs", Path.join(root, "offline/compile_native.exs"))
    File.write!(Path.join(root, "mix.exs"), @project)
    cargo = Path.join(root, "bin/cargo")
    File.write!(cargo, @cargo)
    File.chmod!(cargo, 0o755)

    environment = [
      {"PATH", "#{Path.dirname(cargo)}:#{System.get_env("PATH")}"},
      {"CARGO_TARGET_DIR", Path.join(root, "target")},
      {"CARGO_BUILD_TARGET", nil},
      {"MIX_ENV", "dev"}
    ]

    assert {_output, 0} =
             System.cmd("mix", ["compile"], cd: root, env: environment, stderr_to_stdout: true)

    assert File.exists?(Path.join(root, "_build/dev/lib/fresh/priv/native/foundation_nif.so"))
  end
end
