defmodule Foundation.Native.ReleaseTest do
  use ExUnit.Case, async: true

  alias Foundation.Native.Release

  @url "https://example.com/foundation"

  describe "the URL of the libraries" do
    test "is by default the release of the version in the repository of mix.exs" do
      assert Release.url(nil, @url, "1.2.3") == @url <> "/releases/download/v1.2.3"
    end

    test "is the configured one, before that of mix.exs" do
      assert Release.url("https://example.org/mirror", @url, "1.2.3") ==
               "https://example.org/mirror"
    end

    test "is the root of a host when the configuration names no directory" do
      assert Release.url("https://example.org", @url, "1.2.3") == "https://example.org/"
      assert Release.url("http://example.org:8080", nil, "1.2.3") == "http://example.org:8080/"
    end

    test "is refused unless it is a web address" do
      for mirror <- [
            "",
            "example.org",
            "/srv/releases",
            "file:///srv",
            "ftp://example.org/",
            "https://"
          ] do
        assert_raise ArgumentError, ~r/expected :releases_url of config :foundation to be/, fn ->
          Release.url(mirror, @url, "1.2.3")
        end
      end
    end

    test "is absent without a repository" do
      assert Release.url(nil, nil, "1.2.3") == nil
    end
  end

  describe "a build from source" do
    test "happens when no release has the library" do
      assert Release.reason_to_build(nil, __ENV__.file, nil) =~ "mix.exs has no @source_url"
    end

    test "happens when the checksums of a package are missing" do
      assert Release.reason_to_build(@url, "checksum-none.exs", nil) =~ "no checksum-none.exs"
    end

    test "happens when FOUNDATION_BUILD asks for it" do
      for wanted <- ["1", "true"] do
        assert Release.reason_to_build(@url, __ENV__.file, wanted) =~ "FOUNDATION_BUILD=#{wanted}"
      end
    end

    test "happens when the settings of RustlerPrecompiled ask for it" do
      assert Release.forced([force_build_all: true], %{}) =~ "rustler_precompiled"
      assert Release.forced([force_build: [foundation: true]], %{}) =~ "rustler_precompiled"
      all = "RUSTLER_PRECOMPILED_FORCE_BUILD_ALL"
      assert Release.forced([], %{all => "1"}) =~ all
      assert Release.forced([force_build: [other: true]], %{all => "0"}) == nil
    end

    test "requires cargo, and an error names it when it is absent" do
      assert_raise RuntimeError, ~r/for a reason.*no `cargo` in PATH.*native: false/, fn ->
        Release.require_cargo!("for a reason", nil)
      end

      assert Release.require_cargo!("for a reason", "/bin/cargo") == :ok
      assert Release.require_cargo!(nil, nil) == :ok
    end

    test "happens at compilation, and a later request says which command to run" do
      assert Release.build_ignored(false, "1") =~
               "FOUNDATION_BUILD=1 mix deps.compile foundation --force"

      assert Release.build_ignored(true, "1") == nil
      for wanted <- [nil, "0", ""], do: assert(Release.build_ignored(false, wanted) == nil)
    end

    test "happens in no other case" do
      for wanted <- [nil, "0", "false", ""] do
        assert Release.reason_to_build(@url, __ENV__.file, wanted) == nil
      end
    end
  end

  describe "the workflows" do
    test "build a release's library for exactly the supported systems and NIF versions" do
      workflow = File.read!(".github/workflows/release.yml")
      [targets] = scan(workflow, ~r/^ +job:\n((?: +- \{.*\}\n)+)/m)
      [nif_versions] = scan(workflow, ~r/^ +nif: \[(.*)\]$/m)

      assert Enum.sort(scan(targets, ~r/target: ([^,]+),/)) == Enum.sort(Release.targets())
      assert scan(nif_versions, ~r/"([^"]+)"/) == Release.nif_versions()
    end

    test "name the crate by its name in Cargo.toml" do
      [crate] =
        scan(File.read!("native/foundation_nif/Cargo.toml"), ~r/^\[package\]\nname = "(.+)"$/m)

      assert File.read!(".github/workflows/release.yml") =~ "project-name: #{crate}\n"
    end

    test "build with the lowest NIF version" do
      [floor] = scan(File.read!("Cargo.toml"), ~r/features = \["nif_version_(\d+_\d+)"\]/)
      assert String.replace(floor, "_", ".") == Enum.min(Release.nif_versions())
    end

    test "test on the oldest Elixir that mix.exs allows, and on no older one" do
      requirement = Mix.Project.config()[:elixir]
      versions = scan(File.read!(".github/workflows/ci.yml"), ~r/\{ elixir: "([\d.]+)"/)

      assert "~> " <> hd(versions) == requirement
      assert Enum.all?(versions, &Version.match?(&1 <> ".0", requirement))
      assert versions == Enum.sort_by(versions, &Version.parse!(&1 <> ".0"), Version)
    end

    test "pin each action to a commit, except well-known ones" do
      for file <- Path.wildcard(".github/workflows/*.yml"),
          action <- scan(File.read!(file), ~r/uses: ([^.\s]\S+)/) do
        assert action =~ ~r/^(actions|erlef)\/.+@v\d+$/ or action =~ ~r/@[0-9a-f]{40}$/,
               "#{file}: #{action}"
      end
    end
  end

  defp scan(text, regex) do
    regex |> Regex.scan(text, capture: :all_but_first) |> Enum.concat()
  end
end
