defmodule Foundation.Settled do
  @moduledoc """
  Readings of the VM's memory that nothing else moves.

  Processes keep binaries until they collect garbage, and the VM frees memory of its start, and of
  what ended, on threads of its own.
  """

  @doc """
  Collects the garbage of all processes and returns `reading`, once two readings agree within 10 kB.
  """
  @spec settled((() -> integer), integer) :: integer
  def settled(reading, last \\ 0) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    bytes = reading.()

    if abs(bytes - last) < 10_000 do
      bytes
    else
      Process.sleep(20)
      settled(reading, bytes)
    end
  end
end
