defmodule RustlerPrecompiled do
  @moduledoc false
  # `use RustlerPrecompiled` for builds that cannot reach Hex. It fetches nothing: the library is
  # built by the compiler of `offline/project.exs`. What it leaves in the module is what the
  # package leaves there, a loader in `@on_load` included, so that its user has one case to deal
  # with.

  defmacro __using__(opts) do
    quote bind_quoted: [opts: opts] do
      @on_load :load_rustler_precompiled
      @rustler_precompiled_load_from {opts[:otp_app], "priv/native/#{opts[:crate]}"}
      @rustler_precompiled_load_data 0

      @doc false
      def load_rustler_precompiled do
        {otp_app, path} = @rustler_precompiled_load_from

        otp_app
        |> Application.app_dir(path)
        |> to_charlist()
        |> :erlang.load_nif(@rustler_precompiled_load_data)
      end
    end
  end
end
