# Offline mode: builds the project where Hex cannot be reached. `mix.exs` loads this file.
#
# The mode is on when `FOUNDATION_OFFLINE` is 1. When the variable is not set, `_build/mode`
# decides, where `script/setup` keeps what it found out, so that `mix` alone works after it.

defmodule Foundation.MixProject.Offline do
  @moduledoc false
  # Replaces the parts of the project that need Hex.

  defmacro __before_compile__(_env) do
    quote do
      defoverridable project: 0
      def project, do: unquote(__MODULE__).project(super())
    end
  end

  def on?, do: (System.get_env("FOUNDATION_OFFLINE") || found_out()) == "1"

  defp found_out do
    case File.read(Path.expand("../_build/mode", __DIR__)) do
      {:ok, mode} -> String.trim(mode)
      {:error, _reason} -> nil
    end
  end

  def project(config) do
    Keyword.merge(config,
      compilers: [:foundation_native | Mix.compilers()],
      deps: [
        {:telemetry, path: "offline/telemetry"},
        {:rustler_precompiled, path: "offline/rustler_precompiled", runtime: false}
      ],
      # Mix would remove the packages of Hex from the lock of the project.
      lockfile: "_build/offline.lock"
    )
  end
end

if Foundation.MixProject.Offline.on?() do
  Module.put_attribute(Foundation.MixProject, :before_compile, Foundation.MixProject.Offline)
end

defmodule Mix.Tasks.Compile.FoundationNative do
  @moduledoc false
  # Builds the native library with cargo, in place of the precompiled library and of Rustler. Cargo
  # decides what to build again.
  use Mix.Task.Compiler

  @root Path.dirname(__DIR__)
  @crate "foundation_nif"

  @impl true
  def run(_args) do
    cargo =
      System.find_executable("cargo") ||
        Mix.raise("cargo is needed to build the native library: see https://rustup.rs")

    unless File.exists?(destination()) do
      Mix.shell().info("Building the native library with cargo")
    end

    args =
      ["build", "--quiet", "--release", "--locked", "--package", @crate] ++
        ["--manifest-path", manifest(), "--target-dir", target()]

    case System.cmd(cargo, args, cd: @root, stderr_to_stdout: true) do
      {output, 0} ->
        if output != "", do: Mix.shell().info(output)
        install(built())

      {output, status} ->
        Mix.raise("cargo build failed with status #{status}:\n#{output}")
    end
  end

  @impl true
  def clean, do: File.rm(destination())

  defp install(source) do
    destination = destination()

    if File.read!(source) == read(destination) do
      {:noop, []}
    else
      File.mkdir_p!(Path.dirname(destination))
      # Another VM may have it mapped: it must not be written to, so it is replaced.
      File.cp!(source, destination <> ".new")
      File.rename!(destination <> ".new", destination)
      # Mix links priv into the build before it compiles: in a clone there was none yet.
      Mix.Project.build_structure()
      {:ok, []}
    end
  end

  defp read(path) do
    case File.read(path) do
      {:ok, content} -> content
      {:error, :enoent} -> nil
    end
  end

  # The VM wants `.so` also where the system says `.dylib`.
  defp destination do
    Path.join([@root, "priv/native", @crate <> if(windows?(), do: ".dll", else: ".so")])
  end

  # A package has the second alone.
  defp manifest do
    ["Cargo.toml", "native/package/Cargo.toml"]
    |> Enum.map(&Path.join(@root, &1))
    |> Enum.find(&File.exists?/1) || "Cargo.toml"
  end

  defp target, do: Path.expand(System.get_env("CARGO_TARGET_DIR", "target"), @root)

  defp built do
    # With a target of its own cargo puts its output one directory deeper.
    triple = System.get_env("CARGO_BUILD_TARGET", "")
    Path.join([target(), triple, "release", file()])
  end

  defp file do
    case :os.type() do
      {:unix, :darwin} -> "lib#{@crate}.dylib"
      {:win32, _name} -> "#{@crate}.dll"
      {:unix, _name} -> "lib#{@crate}.so"
    end
  end

  defp windows?, do: match?({:win32, _name}, :os.type())
end
