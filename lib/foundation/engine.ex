defmodule Foundation.Engine do
  @moduledoc false
  # Chooses the engine of this VM, once, before the supervision tree starts.

  require Logger

  alias Foundation.Native
  alias Foundation.Native.Library

  @type t :: :native | :ets
  @type choice :: :auto | t

  @doc """
  Decides by `choice` which engine new tables get, and loads the library where it is wanted.

  An error's text names what keeps the library from being used. Only `:native` gives
  one: `:auto` warns with the same text and takes `:ets`.
  """
  @spec boot(choice) :: {:ok, t} | {:error, String.t()}
  def boot(:ets), do: select(:ets)

  def boot(choice) when choice in [:auto, :native] do
    case {load(), choice} do
      {:ok, _choice} ->
        select(:native)

      {{:error, cause}, :auto} ->
        Logger.warning("Foundation runs on its ETS engine, which is slower: #{cause}")
        select(:ets)

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

  defp select(engine) do
    :persistent_term.put(__MODULE__, engine)
    {:ok, engine}
  end

  defp load do
    with {:ok, path} <- Library.path(), do: Native.load(path, version())
  end

  # The version that the library must report. A stale library has other NIFs under the same names.
  defp version, do: :foundation |> Application.spec(:vsn) |> List.to_string()
end
