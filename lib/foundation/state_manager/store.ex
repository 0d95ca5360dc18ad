defmodule Foundation.StateManager.Store do
  @moduledoc false
  # The directory of one server's checkpoints.
  #
  # A checkpoint is written to a temporary file, synced, and renamed to its final name. A final
  # name therefore always stands for a complete file. Then the directory is synced, which makes
  # the name durable (as in the commits of SQLite and LevelDB). A crash leaves a `.tmp` file.
  #
  # A process that is killed in the middle of a file operation can be reported dead before that
  # operation is done. The operation must not disturb its successor. Temporary names are therefore
  # never used twice. `open/1` removes temporary files before it lists the others, so a pending
  # rename has either finished by then or fails.
  #
  # The directory and its files are for their owner alone: a state may hold what nobody else should
  # read.

  alias Foundation.StateManager.{Checkpoint, Lock}

  # Files with numbers from here on are ignored. Otherwise one of them could make `write/2` exceed
  # the 64 bits of the format, or the 20 digits of a name.
  @sequences 2 ** 63

  @directory_mode 0o700
  @file_mode 0o600

  @enforce_keys [:dir, :lock]
  # last: the highest number in use. good: the newest checkpoint known to be complete. unreadable:
  # the files that could not be read. Their content may be valid, so they are not removed.
  defstruct [:dir, :lock, last: 0, good: nil, unreadable: []]

  @type t :: %__MODULE__{
          dir: Path.t(),
          lock: Lock.token(),
          last: Checkpoint.sequence(),
          good: Checkpoint.sequence() | nil,
          unreadable: [Checkpoint.sequence()]
        }
  @type problem :: {Path.t(), Checkpoint.reason()}

  @doc """
  Takes the directory, which is made if need be, and reads the newest checkpoint that is whole.

  The result has the damaged ones that are newer than it, the newest first.
  """
  @spec open(Path.t()) ::
          {:ok, t, {:ok, term, Path.t()} | :none, [problem]} | {:error, :in_use | File.posix()}
  def open(dir) do
    dir = Path.expand(dir)

    with :ok <- make(dir),
         :ok <- writable(dir),
         {:ok, lock} <- Lock.take(dir),
         :ok <- remove_temporary(dir),
         {:ok, sequences} <- sequences(dir) do
      store = %__MODULE__{dir: dir, lock: lock, last: List.first(sequences, 0)}
      newest_whole(store, sequences, [])
    end
  end

  defp newest_whole(store, [], problems), do: {:ok, store, :none, Enum.reverse(problems)}

  defp newest_whole(store, [sequence | older], problems) do
    path = path(store, sequence)

    with {:ok, bytes} <- read(path),
         {:ok, term} <- Checkpoint.decode(sequence, bytes) do
      {:ok, %{store | good: sequence}, {:ok, term, path}, Enum.reverse(problems)}
    else
      {:error, reason} ->
        store = if damage?(reason), do: store, else: keep(store, sequence)
        newest_whole(store, older, [{path, reason} | problems])
    end
  end

  # Only of a file: reading a pipe or a device may never end.
  defp read(path) do
    with {:ok, %{type: :regular, size: size}} <- File.stat(path),
         {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      bytes = read(file, size)
      :ok = :file.close(file)
      bytes
    else
      {:ok, %{type: :directory}} -> {:error, :eisdir}
      {:ok, _stat} -> {:error, :einval}
      error -> error
    end
  end

  # A file with a wrong length may be huge. Its head shows that without reading the rest.
  defp read(file, size) do
    case :file.pread(file, 0, Checkpoint.head_bytes()) do
      {:ok, head} ->
        if Checkpoint.whole?(head, size), do: :file.pread(file, 0, size), else: {:ok, head}

      :eof ->
        {:ok, ""}

      error ->
        error
    end
  end

  # Damaged for every reader.
  defp damage?(reason) do
    reason in [:not_a_checkpoint, :wrong_length, :wrong_checksum, :misplaced]
  end

  defp keep(store, sequence), do: %{store | unreadable: [sequence | store.unreadable]}

  @doc """
  Writes a checkpoint; it is durable when this returns. Keeps it and the whole one before it.

  A directory that was removed is made again. `:in_use` if another server has taken it.
  """
  @spec write(t, term) ::
          {:ok, t, Path.t(), bytes :: pos_integer} | {:error, :in_use | File.posix(), t}
  def write(store, term) do
    case Lock.held(store.dir, store.lock) do
      :ok -> write_held(store, term)
      {:error, :enoent} -> store |> retake() |> write_retaken(term)
      {:error, reason} -> {:error, reason, store}
    end
  end

  @doc "Whether the newest checkpoint is where it was written."
  @spec saved?(t) :: boolean
  def saved?(store), do: store.good != nil and File.exists?(path(store, store.good))

  @doc "Gives the directory back."
  @spec close(t) :: :ok
  def close(store), do: Lock.release(store.dir, store.lock)

  defp retake(store) do
    with :ok <- make(store.dir),
         {:ok, lock} <- Lock.take(store.dir) do
      %{store | lock: lock}
    else
      {:error, reason} -> {:error, reason, store}
    end
  end

  defp write_retaken(%__MODULE__{} = store, term), do: write_held(store, term)
  defp write_retaken(error, _term), do: error

  defp write_held(store, term) do
    # A number is used up even if its write fails.
    store = %{store | last: store.last + 1}
    path = path(store, store.last)
    temporary = "#{path}.#{System.unique_integer([:positive])}-#{System.os_time()}.tmp"
    {bytes, size} = Checkpoint.encode(store.last, term)

    with :ok <- write_synced(temporary, bytes),
         :ok <- :file.rename(temporary, path),
         :ok <- sync(store.dir) do
      prune(store)
      {:ok, %{store | good: store.last}, path, size}
    else
      {:error, reason} ->
        _ = :file.delete(temporary)
        {:error, reason, store}
    end
  end

  defp write_synced(path, bytes) do
    with {:ok, file} <- :file.open(path, [:write, :exclusive, :raw, :binary]) do
      # The mode before the bytes, which nobody else should see.
      written =
        with :ok <- :file.change_mode(path, @file_mode),
             :ok <- :file.write(file, bytes),
             do: :file.sync(file)

      closed = :file.close(file)
      with :ok <- written, do: closed
    end
  end

  # A file that cannot be removed now is tried again after the next checkpoint.
  defp prune(store) do
    kept = [store.last, store.good | store.unreadable]

    with {:ok, sequences} <- sequences(store.dir) do
      for sequence <- sequences -- kept, do: :file.delete(path(store, sequence))
    end
  end

  defp make(dir) do
    missing = dir |> Stream.iterate(&Path.dirname/1) |> Enum.take_while(&(not File.exists?(&1)))

    with :ok <- File.mkdir_p(dir),
         # Not of a directory that was there: its owner has chosen.
         :ok <- if(missing == [], do: :ok, else: :file.change_mode(dir, @directory_mode)) do
      Enum.find_value(missing, :ok, fn made ->
        case sync(Path.dirname(made)) do
          :ok -> nil
          error -> error
        end
      end)
    end
  end

  defp writable(dir) do
    case File.stat(dir) do
      {:ok, %{access: :read_write}} -> :ok
      {:ok, _stat} -> {:error, :eacces}
      error -> error
    end
  end

  defp remove_temporary(dir) do
    with {:ok, names} <- File.ls(dir) do
      for name <- names, name =~ ~r/\A(\d{20}\.checkpoint|lock)\..*\.tmp\z/ do
        :file.delete(Path.join(dir, name))
      end

      :ok
    end
  end

  # The newest first.
  defp sequences(dir) do
    with {:ok, names} <- File.ls(dir) do
      {:ok,
       names
       |> Enum.filter(&(&1 =~ ~r/\A\d{20}\.checkpoint\z/))
       |> Enum.map(fn <<digits::binary-size(20), _::binary>> -> String.to_integer(digits) end)
       |> Enum.filter(&(&1 < @sequences))
       |> Enum.sort(:desc)}
    end
  end

  defp path(store, sequence) do
    name = sequence |> Integer.to_string() |> String.pad_leading(20, "0")
    Path.join(store.dir, name <> ".checkpoint")
  end

  # Where a directory cannot be opened as a file (Windows), it needs no sync either.
  defp sync(dir) do
    case :file.open(dir, [:read, :directory, :raw]) do
      {:ok, file} ->
        synced = :file.sync(file)
        :ok = :file.close(file)
        if synced in [{:error, :einval}, {:error, :enotsup}], do: :ok, else: synced

      {:error, reason} when reason in [:eisdir, :eacces, :enotsup, :einval] ->
        :ok

      {:error, reason} ->
        {:error, reason}
    end
  end
end
