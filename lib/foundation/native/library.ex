defmodule Foundation.Native.Library do
  @moduledoc false
  # Gets the native library when this is compiled, fetched or built, and says where it
  # is. `Foundation.Native` loads it.

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

      # Two functions and not one that asks: which of them it is, is settled here.
      case load_from do
        {app, path} ->
          quote do
            def path, do: {:ok, Application.app_dir(unquote(app), unquote(path))}
          end

        nil ->
          quote do
            def path do
              {:error,
               "it was compiled without the native library (config :foundation, native: false)"}
            end
          end
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
      Mix.shell().info("The native library is built by cargo: #{@reason_to_build}")
    end

    use RustlerPrecompiled,
        [
          otp_app: :foundation,
          crate: "foundation_nif",
          version: @project[:version],
          base_url: @url || "",
          targets: Release.targets(),
          nif_versions: Release.nif_versions()
        ] ++ @build
  end

  @before_compile NotLoadedHere

  @doc """
  The library's path without extension, as `:erlang.load_nif/2` wants it.
  """
  @spec path() :: {:ok, Path.t()} | {:error, String.t()}
end
