defmodule Foundation.EventLog.SyncTest do
  # Not async: strace slows the VM that it looks at, and the machine with it.
  use ExUnit.Case, async: false

  @moduletag :tmp_dir
  @moduletag timeout: 120_000

  @strace System.find_executable("strace")

  if @strace == nil do
    @moduletag skip: "strace is not installed; the Rust tests count the syncs of their storage"
  end

  @appends 20

  test "an append is acknowledged only after the sync of what it wrote", %{tmp_dir: dir} do
    trace = Path.join(dir, "trace")

    program = """
    {:ok, _apps} = Application.ensure_all_started(:foundation)
    {:ok, _owner} = Foundation.EventLog.start_link(name: :traced, dir: #{inspect(Path.join(dir, "log"))})
    # A write to a file of its own marks each acknowledgement in the trace.
    {:ok, marks} = :file.open(#{inspect(String.to_charlist(Path.join(dir, "marks")))}, [:write, :raw])

    for n <- 1..#{@appends} do
      {:ok, ^n} = Foundation.EventLog.append(:traced, "s", [{:event, n}])
      :ok = :file.write(marks, "acknowledged \#{n}.")
    end

    System.halt(0)
    """

    paths = Enum.flat_map(Path.wildcard("_build/test/lib/*/ebin"), &["-pa", &1])
    calls = "trace=fsync,fdatasync,pwrite64,write,writev"
    elixir = [System.find_executable("elixir") | paths ++ ["-e", program]]

    {output, status} =
      System.cmd(@strace, ["-f", "-qq", "-s", "64", "-e", calls, "-o", trace | elixir])

    if status != 0 and output =~ "PTRACE", do: flunk("strace may not trace here: #{output}")
    assert status == 0, output

    # Between two acknowledgements there is a write, and then a sync. Before the first one the log
    # is made.
    lines = trace |> File.stream!() |> Enum.to_list()
    marks = for {line, index} <- Enum.with_index(lines), line =~ ~s("acknowledged ), do: index
    assert length(marks) == @appends

    for {from, to} <- Enum.zip(marks, tl(marks)) do
      between = Enum.slice(lines, from..to)
      written = Enum.find_index(between, &(&1 =~ "pwrite64("))
      # The end of the call, also where other threads' calls stand between.
      synced = Enum.find_index(between, &(&1 =~ ~r/f(data)?sync.*= 0/))
      assert written && synced && synced > written, Enum.join(between)
    end
  end
end
