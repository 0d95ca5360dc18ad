defmodule Foundation.Engine do
  @moduledoc false
  # Chooses the engine of this VM, once, before the supervision tree starts.

  require Logger

  alias Foundation.Native
  alias Foundation.Native.{Library, Release}

  @type t :: :native | :ets
  @type choice :: :auto | t

  @without_library "compiled without the native library (config :foundation, native: false)"

  @doc """
  Decides by `choice` which engine new tables get, and loads the library where it is wanted.

  An error's text names what keeps the library from being used. Only `:native` gives
  one: `:auto` warns with the same text and takes `:ets`. It does not warn where the
  configuration wants no library.
  """
  @spec boot(choice) :: {:ok, t} | {:error, String.t()}
  def boot(:ets), do: select(:ets)

  def boot(choice) when choice in [:auto, :native] do
    with notice when notice != nil <- build_ignored(), do: Logger.warning(notice)

    case {load(), choice} do
      {:ok, _choice} ->
        select(:native)

      {{:error, :not_wanted}, :auto} ->
        select(:ets, "it was #{@without_library}")

      {{:error, :not_wanted}, :native} ->
        {:error, "config :foundation, engine: :native, but it was #{@without_library}"}

      {{:error, cause}, :auto} ->
        Logger.warning("Foundation runs on its ETS engine, which is slower: #{cause}")
        select(:ets, cause)

      {{:error, cause}, :native} ->
        {:error, "config :foundation, engine: :native, but #{cause}"}
    end
  end

  @doc """
  The engine that was decided on at the start of the application.
  """
  @spec selected() :: t
  def selected do
    case :persistent_term.get(__MODULE__, nil) do
      nil -> raise "the :foundation application has not been started: no engine is selected"
      engine -> engine
    end
  end

  @doc """
  Why the native engine was not selected, in words.
  """
  @spec why_not_native() :: String.t()
  def why_not_native, do: :persistent_term.get({__MODULE__, :why_not_native})

  defp build_ignored,
    do: Release.build_ignored(Library.built?(), System.get_env("FOUNDATION_BUILD"))

  defp select(engine, why_not_native \\ ":ets is selected") do
    :persistent_term.put({__MODULE__, :why_not_native}, why_not_native)
    :persistent_term.put(__MODULE__, engine)
    {:ok, engine}
  end

  defp load do
    with {:ok, path} <- Library.path(),
         :ok <- Library.check(path),
         do: Native.load(path, version())
  end

  # The version that the library must report. A stale library has other NIFs under the same names.
  defp version, do: :foundation |> Application.spec(:vsn) |> List.to_string()
end
