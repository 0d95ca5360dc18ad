defmodule Foundation.Native.Library do
  @moduledoc false
  # Gets the native library when this is compiled, fetched or built, and says where it
  # is and whether it is whole. `Foundation.Native` loads it.

  alias Foundation.Native.LibraryFile

  defmodule NotLoadedHere do
    @moduledoc false
    # RustlerPrecompiled, or Rustler when the library is built, adds an `@on_load` to the module
    # that uses it. It would load the library into that module, and make the module unloadable
    # when the library is missing. This hook removes the `@on_load`. It is registered after theirs
    # and runs after theirs.
    defmacro __before_compile__(env) do
      Module.delete_attribute(env.module, :on_load)

      load_from =
        Module.get_attribute(env.module, :rustler_precompiled_load_from) ||
          Module.get_attribute(env.module, :load_from)

      # Which of the two it is, is settled here.
      case load_from do
        {app, path} -> with_library(app, path)
        nil -> without_library()
      end
    end

    defp with_library(app, path) do
      quote do
        with {:ok, path} <- LibraryFile.path(unquote(app), unquote(path)),
             file = Path.relative_to_cwd(path <> LibraryFile.extension()),
             true <- File.exists?(file),
             do: @external_resource(file)

        @fingerprint (case LibraryFile.path(unquote(app), unquote(path)) do
                        {:ok, path} -> LibraryFile.fingerprint(path)
                        {:error, _cause} -> nil
                      end)

        # Through a place that type checkers do not look into, as the build without a library does.
        def path do
          :persistent_term.get({__MODULE__, :path}, LibraryFile.path(unquote(app), unquote(path)))
        end

        def check(path), do: LibraryFile.check(path, @fingerprint)
        def built?, do: :persistent_term.get({__MODULE__, :built}, @built)
      end
    end

    defp without_library do
      quote do
        # Not the literal: the type checker of Elixir 1.20 would conclude that a caller matches
        # on a path in vain, and warn. Nothing sets the term.
        def path, do: :persistent_term.get({__MODULE__, :path}, {:error, :not_wanted})
        def check(_path), do: :ok
        def built?, do: :persistent_term.get({__MODULE__, :built}, false)
      end
    end
  end

  # `Foundation.Config` describes these settings.
  if Application.compile_env(:foundation, :native, true) do
    alias Foundation.Native.Release

    @project Mix.Project.config()
    @url Release.url(
           Application.compile_env(:foundation, :releases_url),
           @project[:source_url],
           @project[:version]
         )
    # Where RustlerPrecompiled looks for it.
    @checksums "checksum-#{__MODULE__}.exs"
    @reason_to_build Release.reason_to_build(@url, @checksums, System.get_env("FOUNDATION_BUILD"))

    # Without a reason of ours the settings of `:rustler_precompiled` decide.
    @build if(@reason_to_build, do: [force_build: true], else: [])

    # Where `:rustler` is missing the next lines raise and say so, but not why it is needed.
    if @reason_to_build do
      Mix.shell().info(
        "cargo builds Foundation's native library, which can take minutes (#{@reason_to_build})"
      )
    end

    @any_reason @reason_to_build ||
                  Release.forced(
                    Application.get_all_env(:rustler_precompiled),
                    System.get_env()
                  )
    @built @any_reason != nil

    # Rustler asks cargo first of all, whichever it is told to build with.
    Release.require_cargo!(@any_reason, System.find_executable("cargo"))

    # Of the two workspaces a package has the second.
    @crate Enum.find(
             ["native/foundation_nif", "native/package/foundation_nif"],
             &File.exists?(Path.join(&1, "Cargo.toml"))
           )

    use RustlerPrecompiled,
        [
          otp_app: :foundation,
          crate: "foundation_nif",
          path: @crate,
          version: @project[:version],
          base_url: @url || "",
          targets: Release.targets(),
          nif_versions: Release.nif_versions()
        ] ++ @build
  end

  @before_compile NotLoadedHere

  # The library's path without extension, as `:erlang.load_nif/2` wants it; `:not_wanted` where it
  # was compiled without (`config :foundation, native: false`).
  @spec path() :: {:ok, Path.t()} | {:error, String.t() | :not_wanted}

  # Whether the file at the path (no extension) is the library that this was compiled with.
  @spec check(Path.t()) :: :ok | {:error, String.t()}

  # Whether it was built here, and not fetched.
  @spec built?() :: boolean
end
