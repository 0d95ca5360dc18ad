defmodule Mix.Tasks.Compile.FoundationNative do
  @moduledoc false
  # Builds the native library with cargo where no Hex, and so no precompiled
  # library, can be reached (FOUNDATION_OFFLINE=1).
  use Mix.Task.Compiler

  @impl true
  def run(_args) do
    root = Path.dirname(__DIR__)
    args = ["build", "--release", "--locked", "--package", "foundation_nif"]

    case System.cmd("cargo", args, cd: root, stderr_to_stdout: true) do
      {_output, 0} -> install(root)
      {output, status} -> Mix.raise("cargo build failed with status #{status}:\n#{output}")
    end
  end

  defp install(root) do
    target = System.get_env("CARGO_TARGET_DIR") || Path.join(root, "target")
    source = Path.join(target, "release/libfoundation_nif.so")
    destination = Path.join(root, "priv/native/foundation_nif.so")

    if File.read(source) == File.read(destination) do
      {:noop, []}
    else
      File.mkdir_p!(Path.dirname(destination))
      # A library that is mapped must not be written to: replace it by rename.
      File.cp!(source, destination <> ".new")
      File.rename!(destination <> ".new", destination)
      {:ok, []}
    end
  end
end
