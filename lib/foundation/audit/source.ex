defmodule Foundation.Audit.Source do
  @moduledoc false
  # From a file to a syntax tree, with everything that can be wrong on the way as a value.

  # The parser keeps a charlist and its tokens, some 100 bytes a character. Past this a file is
  # data, not source that anyone compiles.
  @max_bytes 32 * 1024 * 1024

  @spec read(Path.t()) :: {:ok, binary} | {:error, Foundation.Audit.problem()}
  def read(file) do
    # Reading a pipe or a device may never end, and would occupy the VM's file server.
    with {:ok, %{type: :regular, size: size}} when size <= @max_bytes <- File.stat(file),
         {:ok, source} <- File.read(file) do
      {:ok, source}
    else
      {:ok, %{type: type}} when type != :regular -> problem(file, nil, "is no regular file")
      {:ok, %{size: size}} -> problem(file, nil, "#{size} bytes are more than #{@max_bytes}")
      {:error, reason} -> problem(file, nil, posix(reason))
    end
  end

  @doc """
  The syntax tree with a string for every name, so that no atom is made of what a file contains.
  """
  @spec parse(binary, Path.t()) :: {:ok, Macro.t()} | {:error, Foundation.Audit.problem()}
  def parse(source, file) do
    if String.valid?(source) do
      quoted(source, file)
    else
      problem(file, nil, "is not valid UTF-8")
    end
  end

  defp quoted(source, file) do
    case Code.string_to_quoted(source,
           static_atoms_encoder: fn name, _meta -> {:ok, name} end,
           # The author hears the tokenizer's warnings from the compiler (by its older name
           # and its newer one).
           warn_on_unnecessary_quotes: false,
           emit_warnings: false
         ) do
      {:ok, tree} -> {:ok, tree}
      {:error, {meta, message, token}} -> problem(file, meta[:line], describe(message, token))
    end
  rescue
    # Some malformed escapes raise in the tokenizer where others are returned.
    error -> problem(file, nil, "does not parse: " <> Exception.message(error))
  end

  defp describe({before, later}, token), do: one_line("#{before}#{token}#{later}")
  defp describe(message, token), do: one_line("#{message}#{token}")

  defp one_line(text), do: text |> String.split("\n", trim: true) |> hd() |> String.trim()

  @doc "A problem in `file`, as an error."
  @spec problem(Path.t(), pos_integer | nil, String.t()) ::
          {:error, Foundation.Audit.problem()}
  def problem(file, line, message), do: {:error, %{file: file, line: line, message: message}}

  @doc "What a file system error means, in words."
  @spec posix(File.posix()) :: String.t()
  def posix(reason), do: reason |> :file.format_error() |> List.to_string()
end
