defmodule FoundationTest do
  use ExUnit.Case, async: true

  doctest Foundation

  test "the application, the crates and the library have the same version" do
    [_, crates] = Regex.run(~r/^version = "(.+)"$/m, File.read!("Cargo.toml"))

    assert Foundation.version() == crates
    assert Foundation.version() == to_string(Application.spec(:foundation, :vsn))
    assert Foundation.Native.library_version() in [crates, nil]
  end
end
