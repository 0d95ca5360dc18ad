defmodule Foundation.PackageTest do
  # Not async: a second Mix and cargo need both of two cores for a while.
  use ExUnit.Case, async: false

  @package Mix.Project.config()[:package]

  test "every file of a package is in the repository, and none is a build product" do
    assert packed() -- tracked() == Enum.filter(packed(), &String.starts_with?(&1, "checksum-"))
  end

  test "every repository file under a packed path is in the package" do
    for file <- tracked(), Enum.any?(@package[:files], &String.starts_with?(file, &1 <> "/")) do
      assert file in packed()
    end
  end

  test "a package has the library, its guides, licence and sources" do
    sources =
      Enum.flat_map(
        ~w(lib/**/*.ex native/package/**/Cargo.toml native/foundation_*/src/**/*.rs),
        &Path.wildcard/1
      )

    pages =
      ~w(README.md CHANGELOG.md LICENSE mix.exs native/package/Cargo.lock .cargo/config.toml) ++
        Enum.filter(Path.wildcard("guides/**"), &File.regular?/1)

    assert (sources ++ pages) -- packed() == []
  end

  test "a package has no file that only the repository needs" do
    places =
      ~w(Cargo.toml test/ bench/ native/fuzz/ offline/ script/ examples/) ++
        ~w(_build/ deps/ target/ priv/ .github/ .ci/)

    assert Enum.filter(packed(), &String.starts_with?(&1, places)) == []
  end

  # Cargo fetches all dependencies of a workspace before it builds one member. The repository has
  # three times as many as the library.
  describe "the manifests of a package" do
    @crates ~w(foundation_core foundation_log foundation_nif)

    defp manifest(path), do: path |> Path.join("Cargo.toml") |> File.read!()

    # The lines below a heading, without comments.
    defp section(manifest, heading) do
      case String.split(manifest, "\n[#{heading}]\n") do
        [_above, below] ->
          [section | _next] = String.split(below, ~r/^\[/m)
          for line <- String.split(section, "\n", trim: true), line =~ ~r/^[^#]/, do: line

        [_none] ->
          []
      end
    end

    defp locked(path) do
      for [_line, name, version] <-
            Regex.scan(~r/^name = "(.+)"\nversion = "(.+)"$/m, File.read!(path)),
          do: {name, version}
    end

    test "name the same dependencies as the repository's manifests, without the development ones" do
      for crate <- @crates,
          heading <- ["dependencies", ~S|target."cfg(target_os = \"linux\")".dependencies|] do
        packed = section(manifest("native/package/#{crate}"), heading)
        assert packed == section(manifest("native/#{crate}"), heading)
      end

      for crate <- @crates,
          do: refute(manifest("native/package/#{crate}") =~ ~r/dev-dependencies|loom/)

      {packed, all} = {manifest("native/package"), manifest(".")}

      for heading <- ~w(workspace.package profile.release),
          do: assert(section(packed, heading) == section(all, heading))

      assert section(packed, "workspace.dependencies") -- section(all, "workspace.dependencies") ==
               []
    end

    test "have the versions that the repository is tested with" do
      packed = locked("native/package/Cargo.lock")
      assert packed -- locked("Cargo.lock") == []
      assert length(packed) < div(length(locked("Cargo.lock")), 2)
    end
  end

  test "the licence named in mix.exs is the packed one" do
    assert @package[:licenses] == ["Apache-2.0"]
    assert File.read!("LICENSE") =~ "Apache License"
  end

  @tag :tmp_dir
  @tag timeout: :timer.minutes(10)
  test "a package compiles on its own, and its library loads", %{tmp_dir: root} do
    for file <- packed(), do: copy(file, root)
    # Stand-ins for the dependencies, which a package gets from Hex.
    for file <- tracked(), String.starts_with?(file, "offline/"), do: copy(file, root)

    environment = [
      {"FOUNDATION_OFFLINE", "1"},
      {"MIX_ENV", "prod"},
      {"MIX_BUILD_PATH", nil},
      {"CARGO_TARGET_DIR", Path.expand("target/package")},
      {"CARGO_BUILD_TARGET", nil},
      # This test asks whether the package compiles. The code need not be fast.
      {"CARGO_PROFILE_RELEASE_LTO", "off"},
      {"CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"}
    ]

    mix = &System.cmd("mix", &1, cd: root, env: environment, stderr_to_stdout: true)

    assert {_output, 0} = mix.(["compile", "--warnings-as-errors"])
    assert {engine, 0} = mix.(["run", "-e", "IO.puts(Foundation.engine())"])
    assert String.ends_with?(engine, "native\n")
  end

  # Expands `:files` as Hex does: wildcards match no dot files, and directories stand for all files
  # in them.
  defp packed do
    @package[:files] |> Enum.flat_map(&Path.wildcard/1) |> Enum.flat_map(&files/1) |> Enum.uniq()
  end

  defp files(path) do
    if File.dir?(path),
      do: path |> File.ls!() |> Enum.flat_map(&files(Path.join(path, &1))),
      else: [path]
  end

  # A copy without git (script/matrix makes one) has only tracked files, and build products.
  defp tracked do
    if File.exists?(".git") do
      {files, 0} = System.cmd("git", ~w(ls-files -z --cached --others --exclude-standard))
      files |> String.split(<<0>>, trim: true) |> Enum.filter(&File.exists?/1)
    else
      built = ~w(_build deps target priv tmp)
      for name <- File.ls!("."), name not in built, file <- files(name), do: file
    end
  end

  defp copy(file, root) do
    destination = Path.join(root, file)
    File.mkdir_p!(Path.dirname(destination))
    File.cp!(file, destination)
  end
end
