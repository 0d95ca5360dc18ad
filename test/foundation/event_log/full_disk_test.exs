defmodule Foundation.EventLog.FullDiskTest do
  # Not async: mounts a file system.
  use Foundation.Case, async: false

  alias Foundation.EventLog

  @moduletag :tmp_dir

  # A small file system of its own needs the rights to mount it.
  if match?({"0\n", 0}, System.cmd("id", ["-u"])) and System.find_executable("mount") do
    setup %{tmp_dir: dir} do
      {output, status} =
        System.cmd("mount", ["-t", "tmpfs", "-o", "size=512k", "tmpfs", dir],
          stderr_to_stdout: true
        )

      if status == 0, do: on_exit(fn -> System.cmd("umount", ["-l", dir]) end)
      %{mounted: status == 0, output: output}
    end

    test "an append to a full disk fails without a trace, and a later one succeeds",
         %{tmp_dir: dir, mounted: mounted} do
      # In a container root may have no right to mount: the Rust tests have a full disk of their
      # own.
      if mounted, do: fill(dir)
    end
  else
    @moduletag skip:
                 "mounting a small file system needs root; the Rust tests simulate a full disk"
    test "an append to a full disk fails without a trace, and a later one succeeds",
      do: :ok
  end

  @doc false
  def fill(dir) do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: Path.join(dir, "log")}, id: log)
    {:ok, 1} = EventLog.append(log, "s", [{:event, 1}])
    filler = Path.join(dir, "filler")
    File.write(filler, :binary.copy("x", 460_000))
    large = [{:event, :binary.copy("y", 200_000)}]

    for _ <- 1..3 do
      assert EventLog.append(log, "s", large) == {:error, {:io, :enospc}}
      assert EventLog.version(log, "s") == 1
      assert [%{data: 1}] = EventLog.read(log, :all)
    end

    File.rm!(filler)
    assert EventLog.append(log, "s", large, expected: 1) == {:ok, 2}
    assert EventLog.verify(log) == :ok
    :ok = stop_supervised(log)
    start_supervised!({EventLog, name: log, dir: Path.join(dir, "log")}, id: log)
    assert [%{position: 1}, %{position: 2}] = EventLog.read(log, :all)
    :ok = stop_supervised(log)
  end
end
