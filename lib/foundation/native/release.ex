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

  # The lowest version, so that one file serves OTP 24 and all later ones.
  @nif_versions ["2.15"]

  @doc """
  Returns the targets for which a release has a library.
  """
  @spec targets() :: [String.t()]
  def targets, do: @targets

  @doc """
  Returns the NIF versions for which a release has a library, on each target.
  """
  @spec nif_versions() :: [String.t()]
  def nif_versions, do: @nif_versions

  @doc """
  Returns the address of the libraries of `version`: `mirror`, or the release in the repository that
  `mix.exs` names. Returns `nil` if there is neither. Raises `ArgumentError` for a mirror that is
  not an http or https address.
  """
  @spec url(mirror :: String.t() | nil, repository :: String.t() | nil, String.t()) ::
          String.t() | nil
  def url(nil, nil, _version), do: nil
  def url(nil, repository, version), do: "#{repository}/releases/download/v#{version}"

  def url(mirror, _repository, _version) do
    case URI.parse(mirror) do
      # RustlerPrecompiled joins the file's name to the path, so the path must not be missing.
      %URI{scheme: scheme, host: host} = uri
      when scheme in ["http", "https"] and host not in [nil, ""] ->
        URI.to_string(%{uri | path: uri.path || "/"})

      _other ->
        raise ArgumentError,
              "expected :releases_url of config :foundation to be the http or https address of a " <>
                "directory, got: #{inspect(mirror)}"
    end
  end

  @doc """
  Returns the setting of RustlerPrecompiled that forces a build, or `nil`.
  """
  @spec forced(settings :: keyword, environment :: map) :: String.t() | nil
  def forced(settings, environment) do
    all = "RUSTLER_PRECOMPILED_FORCE_BUILD_ALL"

    cond do
      settings[:force_build_all] || get_in(settings, [:force_build, :foundation]) ->
        "config :rustler_precompiled asks for it"

      Map.get(environment, all) in ["1", "true"] ->
        "#{all} asks for it"

      true ->
        nil
    end
  end

  @doc """
  Raises if the library must be built and `cargo` is missing.
  """
  @spec require_cargo!(reason_to_build :: String.t() | nil, cargo :: Path.t() | nil) :: :ok
  def require_cargo!(reason, nil) when reason != nil do
    raise "building the native library (#{reason}) requires Rust, and there is no `cargo` in PATH. " <>
            "Install it from https://rustup.rs, or use the ETS engine: " <>
            "config :foundation, native: false"
  end

  def require_cargo!(_reason, _cargo), do: :ok

  @doc """
  Returns the warning for a VM that starts with a fetched library although a build is `wanted`. The
  environment is read when `:foundation` is compiled, and Mix does not recompile a dependency
  because of it. Returns `nil` if there is nothing to warn about.
  """
  @spec build_ignored(built? :: boolean, wanted :: String.t() | nil) :: String.t() | nil
  def build_ignored(false, wanted) when wanted in ["1", "true"] do
    "FOUNDATION_BUILD=#{wanted} was set too late: the native library had been fetched when " <>
      ":foundation was compiled. Run FOUNDATION_BUILD=1 mix deps.compile foundation --force"
  end

  def build_ignored(_built?, _wanted), do: nil

  @doc """
  Returns why the library is built and not fetched from `url`, or `nil`.

  A fetched library is compared with the checksums in the package. A checkout of the repository
  has none.
  """
  @spec reason_to_build(url :: String.t() | nil, Path.t(), wanted :: String.t() | nil) ::
          String.t() | nil
  def reason_to_build(url, checksums, wanted) do
    cond do
      wanted in ["1", "true"] -> "FOUNDATION_BUILD=#{wanted} asks for it"
      url == nil -> "no prebuilt libraries are released yet, since mix.exs has no @source_url"
      not File.exists?(checksums) -> "this is not a package of Hex, it has no #{checksums}"
      true -> nil
    end
  end
end
