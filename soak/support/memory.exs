defmodule Soak.Memory do
  @moduledoc false
  # Resident memory, read when what can go has gone.

  alias Soak.Record

  # What allocators and a longer list of atoms, modules and monitors may take meanwhile.
  @allowance 64_000_000
  @growth 1.25

  def settled do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    # The library frees what was retired within its tick of a second.
    Process.sleep(2_500)
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    figures = %{resident: resident(), vm: :erlang.memory(:total), live: live()}
    figures
  end

  def judge(start, finish) do
    :persistent_term.put(__MODULE__, {start, finish})

    Record.guard(fn ->
      for figure <- [:resident, :vm], start[figure] do
        limit = start[figure] * @growth + @allowance
        Record.check!(:memory, finish[figure] <= limit, fn -> {figure, start, finish} end)
      end
    end)
  end

  def figures, do: :persistent_term.get(__MODULE__)

  defp live, do: Foundation.Native.registry_live_counts()

  # In bytes; nil where there is no such file.
  defp resident do
    with {:ok, status} <- File.read("/proc/self/status"),
         [_line, kilobytes] <- Regex.run(~r/VmRSS:\s+(\d+) kB/, status) do
      String.to_integer(kilobytes) * 1_024
    else
      _none -> nil
    end
  end
end
