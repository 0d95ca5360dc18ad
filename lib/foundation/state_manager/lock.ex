defmodule Foundation.StateManager.Lock do
  @moduledoc false
  # Keeps a directory to one server. Two servers of one directory would restore each other's state
  # and remove each other's files.
  #
  # Within a node the server claims the directory's path and its device and inode by `:global`, on
  # this node alone. So a symlink is no other directory, and the claim goes with its process.
  #
  # Against other VMs there is a file, `lock`. Its contents are a token: the process id of its VM,
  # when that VM started, and a unique number. A VM that is gone leaves its lock behind, so the lock of a VM that does not run is
  # replaced. Only Linux tells when a process started, by /proc. Elsewhere, and from another
  # container, the owner looks gone. Then the newest server has the lock: each reads its token
  # before it writes a checkpoint, and writes none without it.
  #
  # The lock is replaced by a rename, which is atomic: there is no moment without a whole one.

  @file_name "lock"

  # How long a predecessor may take to be seen as gone, in tries of 10 ms: its death reaches its
  # supervisor and what keeps the claims in no order that is promised.
  @tries 100

  # A lock of ours is shorter. A longer file is not one.
  @most_bytes 1_024

  @type token :: String.t()

  @doc """
  Takes the directory, which exists, for the calling process. `{:error, :in_use}` if another
  server has it; one of this node that is just ending is waited for, up to a second.
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

  # Where the file system has no inodes (Windows), only the path is known.
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

  # The claims say that no server of this node has it, whatever the file says.
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

  # Only of a file: reading a pipe may never end.
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

  # The boot and the clock tick that a process started at, "unknown" if there is no such process or
  # no such file.
  defp started(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"),
         {:ok, boot} <- File.read("/proc/sys/kernel/random/boot_id"),
         # The name of the program comes before, and may hold anything.
         [_state | fields] <- stat |> String.split(")") |> List.last() |> String.split(),
         tick when is_binary(tick) <- Enum.at(fields, 18) do
      "#{String.trim(boot)}:#{tick}"
    else
      _none -> "unknown"
    end
  end
end
