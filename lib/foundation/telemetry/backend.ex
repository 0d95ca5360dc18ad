defmodule Foundation.Telemetry.Backend do
  @moduledoc false
  # The common part of the backends of events and of spans. Each engine has one backend, and the
  # one with open tables runs.

  @type backends :: [native: module, ets: module]

  @doc """
  The backend whose tables exist, `nil` when there are none.
  """
  @spec running(backends) :: module | nil
  def running(backends) do
    case existing(backends) do
      {:ok, backend} -> backend
      :none -> nil
    end
  end

  @doc """
  The backend whose tables exist, or a raise that says what is missing.
  """
  @spec running!(backends) :: module
  def running!(backends) do
    case existing(backends) do
      {:ok, backend} ->
        backend

      :none ->
        raise "Foundation's telemetry tables do not exist: start the :foundation application"
    end
  end

  # Tagged, because `running() || raise` is, to the type checker of Elixir 1.18, still maybe nil.
  defp existing(native: native, ets: ets) do
    cond do
      native.exists?() -> {:ok, native}
      ets.exists?() -> {:ok, ets}
      true -> :none
    end
  end
end
