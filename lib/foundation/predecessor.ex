defmodule Foundation.Predecessor do
  @moduledoc false
  # When a supervisor is killed, its children learn of it one by one. Its successor may start
  # before they have exited. The new children would find their names taken, and the successor
  # would fail to start until its own supervisor gives up.

  # How long a predecessor's child may take to be gone.
  @farewell_ms 5_000

  @doc "Waits until no process has any of these names. For the start of a supervisor."
  @spec await_gone([atom]) :: :ok
  def await_gone(names) do
    for name <- names, pid = Process.whereis(name), do: gone?(pid)
    :ok
  end

  @doc "Waits for the end of a predecessor's child, and says whether it came."
  @spec gone?(pid) :: boolean
  def gone?(pid) do
    ref = Process.monitor(pid)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> true
    after
      @farewell_ms ->
        Process.demonitor(ref, [:flush])
        false
    end
  end
end
