defmodule Foundation.Audit.Files do
  @moduledoc false
  # Which files are audited.

  alias Foundation.Audit.Source

  @extensions [".ex", ".exs"]

  @doc "The source files at and below `paths`, each once, and the paths that are none."
  @spec find([Path.t()]) :: {[Path.t()], [Foundation.Audit.problem()]}
  def find(paths) do
    {files, problems} =
      Enum.reduce(paths, {[], []}, fn path, {files, problems} ->
        {unread, found} = Enum.split_with(named(path), &is_map/1)
        {[found | files], [unread | problems]}
      end)

    files = files |> Enum.reverse() |> Enum.concat() |> Enum.uniq_by(&Path.expand/1)
    {files, problems |> Enum.reverse() |> Enum.concat()}
  end

  # The paths, and the problems among them.
  defp named(path) do
    case File.stat(path) do
      {:ok, %{type: :directory}} -> below(path, [])
      {:ok, _stat} -> file(path)
      {:error, reason} -> [problem(path, Source.posix(reason))]
    end
  end

  defp file(path) do
    if source?(path),
      do: [path],
      else: [problem(path, "expected a directory, an .ex or an .exs file")]
  end

  defp problem(path, message) do
    {:error, problem} = Source.problem(path, nil, message)
    problem
  end

  # Links are followed; `ancestors` are the directories above, so that a link to one of them ends.
  defp below(directory, ancestors) do
    identity = identity(directory)

    with false <- identity in ancestors,
         {:ok, names} <- File.ls(directory) do
      names
      |> Enum.sort()
      |> Enum.reject(&left_out?(&1, names))
      |> Enum.flat_map(fn name ->
        path = if directory == ".", do: name, else: Path.join(directory, name)

        cond do
          File.dir?(path) -> below(path, [identity | ancestors])
          source?(path) -> [path]
          true -> []
        end
      end)
    else
      true -> []
      {:error, reason} -> [problem(directory, Source.posix(reason))]
    end
  end

  defp left_out?("." <> _, _names), do: true
  defp left_out?(name, names) when name in ["deps", "_build"], do: "mix.exs" in names
  defp left_out?(_name, _names), do: false

  defp source?(path), do: Path.extname(path) in @extensions

  # Where there are no inodes, the path itself has to do.
  defp identity(path) do
    case File.stat(path) do
      {:ok, %{inode: inode, major_device: device}} when inode > 0 -> {device, inode}
      _ -> Path.expand(path)
    end
  end
end
