defmodule Foundation.StateManager.Lock do
  @moduledoc false
  # Reserves a directory for one server. Two servers of one directory would restore each other's
  # state and remove each other's files.
  #
  # Within a node, the server claims the directory's path and its device and inode through
  # `:global`, on this node only. So a symlink counts as the same directory, and the claim ends with
  # its process.
  #
  # Against other VMs there is a file, `lock`. It contains a token: the process id of the VM, when
  # that VM started, and a unique number. A VM that dies leaves its lock behind, so a server
  # replaces the lock of a VM that is not running. Only Linux tells when a process started, in
  # /proc. On other systems, and in another container, the owner looks dead. Then the newest server
  # has the lock: each server reads the token before it writes a checkpoint, and writes only if it
  # is its own.
  #
  # A rename replaces the lock, which is atomic: there is always a complete lock.

  @file_name "lock"

  # How often to look for a claim of a dying predecessor, 10 ms apart. Its supervisor may learn of
  # its death before the claims do.
  @tries 100

  # Our locks are shorter. A longer file is not one of ours.
  @most_bytes 1_024

  @type token :: String.t()

  @doc """
  Takes the directory, which must exist, for the calling process. Returns `{:error, :in_use}` if
  another server has it. It waits up to a second for a server of this node that is just ending.
  """
  @spec take(Path.t()) :: {:ok, token} | {:error, :in_use | File.posix()}
  def take(dir) do
    with {:ok, stat} <- File.stat(dir),
         :ok <- claim([{:path, dir} | identity(stat)]),
         :ok <- free(dir) do
      write(dir)
    end
  end

  @doc "Whether the directory still is the one of the token: `:ok`, or why not."
  @spec held(Path.t(), token) :: :ok | {:error, :in_use | File.posix()}
  def held(dir, token) do
    with {:ok, contents} <- read(dir) do
      if contents == token, do: :ok, else: {:error, :in_use}
    end
  end

  @doc "Gives the directory back to other VMs. This node's claims end with the process."
  @spec release(Path.t(), token) :: :ok
  def release(dir, token) do
    with :ok <- held(dir, token), do: :file.delete(Path.join(dir, @file_name))
    :ok
  end

  # If the file system has no inodes (Windows), only the path is known.
  defp identity(%File.Stat{inode: 0}), do: []
  defp identity(%File.Stat{major_device: device, inode: inode}), do: [{:inode, device, inode}]

  defp claim(names) do
    if Enum.all?(names, &claim(&1, @tries)), do: :ok, else: {:error, :in_use}
  end

  defp claim(name, tries) do
    cond do
      :global.set_lock({{__MODULE__, name}, self()}, [node()], 0) ->
        true

      tries > 0 ->
        Process.sleep(10)
        claim(name, tries - 1)

      true ->
        false
    end
  end

  # Takes over the lock file. The claims show that no server of this node has the directory.
  defp free(dir) do
    with {:ok, contents} <- read(dir),
         [pid, started, _unique] <- String.split(contents, " "),
         true <- pid =~ ~r/\A[1-9]\d{0,9}\z/ and {pid, started} != this_vm(),
         ^started when started != "unknown" <- started(pid) do
      {:error, :in_use}
    else
      {:error, reason} when reason not in [:enoent, :einval] -> {:error, reason}
      _nobody -> :ok
    end
  end

  defp write(dir) do
    {pid, started} = this_vm()
    unique = "#{System.unique_integer([:positive])}-#{System.os_time()}"
    token = "#{pid} #{started} #{unique}"
    path = Path.join(dir, @file_name)
    temporary = "#{path}.#{unique}.tmp"

    with {:ok, file} <- :file.open(temporary, [:write, :exclusive, :raw, :binary]),
         :ok <- :file.write(file, token),
         :ok <- :file.close(file),
         :ok <- :file.change_mode(temporary, 0o600),
         :ok <- :file.rename(temporary, path),
         :ok <- held(dir, token) do
      {:ok, token}
    else
      {:error, reason} ->
        _ = :file.delete(temporary)
        {:error, reason}
    end
  end

  # Reads only a regular file: reading a pipe may never end.
  defp read(dir) do
    path = Path.join(dir, @file_name)

    case File.lstat(path) do
      {:ok, %{type: :regular, size: size}} when size <= @most_bytes -> File.read(path)
      {:ok, _other} -> {:error, :einval}
      error -> error
    end
  end

  defp this_vm do
    pid = System.pid()
    {pid, started(pid)}
  end

  # Returns the boot id and the clock tick at which a process started, or "unknown" if there is no
  # such process or no such file.
  defp started(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         {:ok, boot} <- File.read("/proc/sys/kernel/random/boot_id"),
         # The program's name comes before these fields, and may contain anything.
         [_state | fields] <- stat |> String.split(")") |> List.last() |> String.split(),
         tick when is_binary(tick) <- Enum.at(fields, 18) do
      "#{String.trim(boot)}:#{tick}"
    else
      _none -> "unknown"
    end
  end
end
