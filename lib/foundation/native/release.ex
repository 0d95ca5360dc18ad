defmodule Foundation.Native.Release do
  @moduledoc false
  # The contents of a release besides the package, and whether the library is fetched from it.
  #
  # `.github/workflows/release.yml` builds a library for each target and NIF version that is
  # listed here, and a test compares the two lists.

  @targets ~w(
    aarch64-apple-darwin
    aarch64-unknown-linux-gnu
    aarch64-unknown-linux-musl
    x86_64-apple-darwin
    x86_64-pc-windows-gnu
    x86_64-pc-windows-msvc
    x86_64-unknown-linux-gnu
    x86_64-unknown-linux-musl
  )

  # The floor, so that one file serves OTP 24 and all later ones.
  @nif_versions ["2.15"]

  @doc """
  The systems that a release has a library for.
  """
  @spec targets() :: [String.t()]
  def targets, do: @targets

  @doc """
  The NIF versions that it has one for, on each of them.
  """
  @spec nif_versions() :: [String.t()]
  def nif_versions, do: @nif_versions

  @doc """
  Where the libraries of `version` are: `mirror`, or the release of that version in the repository
  that `mix.exs` names. `nil` while it names none.
  """
  @spec url(mirror :: String.t() | nil, repository :: String.t() | nil, String.t()) ::
          String.t() | nil
  def url(nil, nil, _version), do: nil
  def url(nil, repository, version), do: "#{repository}/releases/download/v#{version}"
  def url(mirror, _repository, _version), do: mirror

  @doc """
  Why the library is to be built and not fetched from `url`, `nil` if there is no reason.

  A fetched library is compared with the checksums in the package. A checkout of the repository
  has none.
  """
  @spec reason_to_build(url :: String.t() | nil, Path.t(), wanted :: String.t() | nil) ::
          String.t() | nil
  def reason_to_build(url, checksums, wanted) do
    cond do
      wanted in ["1", "true"] -> "FOUNDATION_BUILD=#{wanted} asks for it"
      url == nil -> "no repository has releases of it yet (@source_url in mix.exs)"
      not File.exists?(checksums) -> "this is not a package of Hex, it has no #{checksums}"
      true -> nil
    end
  end
end
