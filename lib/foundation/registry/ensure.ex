defmodule Foundation.Registry.Ensure do
  @moduledoc false
  # `Foundation.Registry.ensure/3`, for a key that has no process yet.

  alias Foundation.{Registry, SingleFlight}

  @spec run(atom, term, (() -> term)) :: {:ok, pid} | {:error, term}
  def run(registry, key, fun),
    do: SingleFlight.run(registry, key, fn -> find(registry, key, fun) end)

  defp find(registry, key, fun) do
    # An earlier function may have ended since the caller looked.
    case Registry.whereis_name({registry, key}) do
      :undefined -> registry |> start(key, fun.())
      pid -> {:ok, pid}
    end
  end

  defp start(registry, key, {:ok, pid}) when is_pid(pid),
    do: register(registry, key, pid, :started)

  defp start(registry, key, {:ok, pid, _info}) when is_pid(pid),
    do: register(registry, key, pid, :started)

  # The answer of a start that found the process running, under its own name.
  defp start(registry, key, {:error, {:already_started, pid}}) when is_pid(pid),
    do: register(registry, key, pid, :found)

  defp start(_registry, _key, {:error, _reason} = error), do: error

  defp start(_registry, _key, other) do
    raise ArgumentError,
          "expected the function to return {:ok, pid} or {:error, reason}, got: #{inspect(other)}"
  end

  defp register(registry, key, pid, how) do
    case Registry.register_for(registry, pid, key, nil) do
      {:ok, _owner} -> {:ok, pid}
      {:error, {:already_registered, ^pid}} -> {:ok, pid}
      {:error, {:already_registered, other}} -> tap({:ok, other}, fn _ -> give_up(pid, how) end)
      {:error, :not_alive} = error -> error
    end
  rescue
    # The table is full, or gone.
    error ->
      give_up(pid, how)
      reraise error, __STACKTRACE__
  end

  # Two processes for one key would be worse than none.
  defp give_up(pid, :started) when pid != self() do
    # The caller may be linked to it, and must not end with it.
    Process.unlink(pid)
    Process.exit(pid, :shutdown)
  end

  defp give_up(_pid, _how), do: :ok
end
