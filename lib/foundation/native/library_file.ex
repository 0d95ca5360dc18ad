defmodule Foundation.Native.LibraryFile do
  @moduledoc false
  # Where the file of the native library is, and whether it is the one that was compiled.
  #
  # A file that was cut short passes the system's loader, and ends the VM at the first access to
  # what is not there. So its size and checksum are compared before it is loaded. The checksum
  # guards against damage, not against an attacker, who could change this module as well.

  @type fingerprint :: {bytes :: non_neg_integer, md5 :: binary}

  @doc """
  The path without extension of a library in the directory of an application.
  """
  @spec path(atom, Path.t()) :: {:ok, Path.t()} | {:error, String.t()}
  def path(app, relative) do
    case :code.lib_dir(app) do
      {:error, :bad_name} ->
        {:error,
         "the directory of #{inspect(app)} is unknown: its modules were loaded from a code path " <>
           "that does not end in #{app}/ebin, as in an escript"}

      directory ->
        {:ok, Path.join(directory, relative)}
    end
  end

  @doc """
  The size and checksum of the file at `path` (no extension), or `nil` where there is none.
  """
  @spec fingerprint(Path.t()) :: fingerprint | nil
  def fingerprint(path) do
    # In one read: a reload runs this beside busy processes, which run between two reads.
    case File.read(path <> extension()) do
      {:ok, library} -> {byte_size(library), :erlang.md5(library)}
      {:error, _reason} -> nil
    end
  end

  @doc """
  Whether the file at `path` is the compiled one. `:ok` also for a file that is missing, or was
  while this was compiled: what loads it says so better.
  """
  @spec check(Path.t(), compiled :: fingerprint | nil) :: :ok | {:error, String.t()}
  def check(path, compiled) do
    case {fingerprint(path), compiled} do
      {found, compiled} when found == compiled or found == nil or compiled == nil ->
        :ok

      {{bytes, _md5}, {compiled_bytes, _compiled_md5}} ->
        {:error,
         "the library #{path}#{extension()} is damaged, or was built after :foundation was " <>
           "compiled (#{bytes} bytes, compiled: #{compiled_bytes}): compile :foundation again"}
    end
  end

  @doc "What `:erlang.load_nif/2` appends to a path."
  @spec extension() :: String.t()
  def extension, do: if(match?({:win32, _}, :os.type()), do: ".dll", else: ".so")
end
