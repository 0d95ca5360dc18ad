defmodule Foundation.Audit.AllowList do
  @moduledoc false
  # The files in which the process dictionary may be used, as globs.

  @type t :: [{:relative | :absolute, Regex.t()}]

  @doc "The globs made ready to match paths."
  @spec compile([String.t()]) :: t
  def compile(globs) do
    Enum.map(globs, fn glob ->
      base = if Path.type(glob) == :absolute, do: :absolute, else: :relative
      {base, Regex.compile!("\\A" <> pattern(normal(glob)) <> below(glob) <> "\\z", "us")}
    end)
  end

  @doc "Whether one of the globs matches the path."
  @spec allows?(t, Path.t()) :: boolean
  def allows?(list, path) do
    absolute = Path.expand(path)
    # A file outside the working directory has only its absolute path.
    relative = Path.relative_to_cwd(absolute)

    Enum.any?(list, fn
      {:absolute, regex} -> Regex.match?(regex, absolute)
      {:relative, regex} -> Regex.match?(regex, relative)
    end)
  end

  # `./lib/` and `lib/x/../y` name what `lib` and `lib/y` name.
  defp normal(glob) do
    cwd = File.cwd!()
    expanded = Path.expand(glob, cwd)
    if Path.type(glob) == :absolute, do: expanded, else: Path.relative_to(expanded, cwd)
  end

  defp below(glob), do: if(glob =~ ~r/[*?{]/, do: "", else: "(?:/.*)?")

  defp pattern("**/" <> rest), do: "(?:.*/)?" <> pattern(rest)
  defp pattern("**" <> rest), do: ".*" <> pattern(rest)
  defp pattern("*" <> rest), do: "[^/]*" <> pattern(rest)
  defp pattern("?" <> rest), do: "[^/]" <> pattern(rest)

  defp pattern("{" <> rest) do
    case String.split(rest, "}", parts: 2) do
      [choices, rest] ->
        choices = choices |> String.split(",") |> Enum.map_join("|", &pattern/1)
        "(?:" <> choices <> ")" <> pattern(rest)

      [_unclosed] ->
        "\\{" <> pattern(rest)
    end
  end

  defp pattern(<<character::utf8, rest::binary>>) do
    Regex.escape(<<character::utf8>>) <> pattern(rest)
  end

  defp pattern(""), do: ""
end
