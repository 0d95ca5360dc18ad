defmodule Soak.Memory do
  @moduledoc false
  # Memory after garbage has been collected: what the VM has allocated, and the resident set, in
  # which the VM's allocators keep freed memory.

  alias Soak.Record

  # Room for the event windows of the last seconds, and for lists of atoms, modules and monitors.
  @allocated 16_000_000
  @resident 96_000_000

  def settled do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    # The library frees retired memory at its next tick, after a second at most.
    Process.sleep(2_500)
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    %{resident: resident(), vm: :erlang.memory(:total), live: live()}
  end

  def judge(start, finish) do
    :persistent_term.put(__MODULE__, {start, finish})

    Record.guard(fn ->
      for {figure, allowance} <- [vm: @allocated, resident: @resident], start[figure] do
        grown = finish[figure] - start[figure]
        Record.check!(:memory, grown <= allowance, fn -> {figure, start, finish} end)
      end
    end)
  end

  def figures, do: :persistent_term.get(__MODULE__)

  defp live, do: Foundation.Native.live_counts()

  # In bytes, or nil where the file does not exist.
  defp resident do
    with {:ok, status} <- File.read("/proc/self/status"),
         [_line, kilobytes] <- Regex.run(~r/VmRSS:\s+(\d+) kB/, status) do
      String.to_integer(kilobytes) * 1_024
    else
      _none -> nil
    end
  end
end
