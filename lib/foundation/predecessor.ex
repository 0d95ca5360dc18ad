defmodule Foundation.Predecessor do
  @moduledoc false
  # A supervisor that was killed leaves children that are told of it one by one, and its successor
  # may be quicker than that: its own children would find their names taken, and it would fail to
  # start until its own supervisor gives up.

  # How long a predecessor's child may take to be gone.
  @farewell_ms 5_000

  @doc "Waits until no process has any of these names. For the start of a supervisor."
  @spec await_gone([atom]) :: :ok
  def await_gone(names), do: Enum.each(names, &await_one/1)

  defp await_one(name) do
    with pid when is_pid(pid) <- Process.whereis(name) do
      ref = Process.monitor(pid)

      receive do
        {:DOWN, ^ref, :process, _pid, _reason} -> :ok
      after
        @farewell_ms -> Process.demonitor(ref, [:flush])
      end
    end
  end
end
