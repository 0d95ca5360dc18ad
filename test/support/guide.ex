defmodule Foundation.Guide do
  @moduledoc """
  Runs a guide as a reader would: its Elixir blocks in order, in one session. Compares the results
  with those in the guide.

    * `#=> value` on lines of its own is the value of the expression before it.
    * A `text` block after an Elixir block is what that block prints and logs.
    * A block that begins with `import Config` is a configuration with known settings.
    * A block of `def deps` names this application by its package.
    * A block with `use Jido` is only parsed, because Jido needs a later Elixir than this library.
    * A `console` block of `$ mix …` is run, and the rest of the block is its output.
    * In a Livebook, the block marked as output is a cell's output. `Mix.install` is skipped,
      because the project is already there.

  Any other fenced block is an error, so every block in a guide is checked.
  """

  import ExUnit.Assertions

  @type block :: {line :: pos_integer, language :: String.t(), text :: String.t()}

  @doc "Runs a guide in this VM, whose application is running."
  @spec run(Path.t()) :: :ok
  def run(path) do
    {:ok, _apps} = Application.ensure_all_started(:ex_unit)
    session = %{path: path, binding: [], env: env(path), log: []}
    _session = path |> blocks() |> run_blocks(session)
    :ok
  end

  @doc "Returns the fenced blocks of a guide."
  @spec blocks(Path.t()) :: [block]
  def blocks(path) do
    path |> File.read!() |> String.split("\n") |> Enum.with_index(1) |> fenced([])
  end

  defp fenced([], blocks), do: Enum.reverse(blocks)

  defp fenced([{"```" <> language, line} | rest], blocks) do
    {lines, [_end | rest]} = Enum.split_while(rest, fn {text, _line} -> text != "```" end)
    text = Enum.map_join(lines, "\n", &elem(&1, 0))
    fenced(rest, [{line + 1, language, text} | blocks])
  end

  defp fenced([_prose | rest], blocks), do: fenced(rest, blocks)

  # The state of an `iex` session at its start.
  defp env(path), do: %{Code.env_for_eval([]) | file: path}

  defp run_blocks([], session), do: session

  defp run_blocks([{_line, "elixir", "import Config" <> _ = text} | rest], session) do
    config = Config.Reader.eval!(session.path, text)
    configured(config)
    run_blocks(rest, %{session | log: config[:logger][:console] || session.log})
  end

  defp run_blocks([{line, "elixir", "def deps" <> _ = text} | rest], session) do
    assert text =~ ~s("~> #{Foundation.version()}"), "#{session.path}:#{line}: another version"
    assert text =~ "hex: :foundation_native", "#{session.path}:#{line}: another package"
    assert {:ok, _quoted} = Code.string_to_quoted(text)
    run_blocks(rest, session)
  end

  defp run_blocks([{line, "elixir", "defmodule MyApp.Jido" <> _ = text} | rest], session) do
    assert text =~ "use Jido", "#{session.path}:#{line}: not a module of Jido's"
    assert {:ok, _quoted} = Code.string_to_quoted(text)
    run_blocks(rest, session)
  end

  defp run_blocks([{_line, "elixir", "Mix.install" <> _} | rest], session),
    do: run_blocks(rest, session)

  defp run_blocks([{line, "elixir", text}, {_, "text", expected} | rest], session) do
    {printed, _value, session} = printing(session, line, text)
    same!(printed, expected, session.path, line)
    run_blocks(rest, session)
  end

  # A Livebook's output is a block without a language: the text that a cell prints, or its value.
  defp run_blocks([{line, "elixir", text}, {_, "", expected} | rest], session) do
    {printed, value, session} = printing(session, line, text)
    output = if printed == "", do: inspect(value), else: printed
    same!(output, expected, session.path, line)
    run_blocks(rest, session)
  end

  defp run_blocks([{line, "elixir", text} | rest], session) do
    {_printed, _value, session} = printing(session, line, text)
    run_blocks(rest, session)
  end

  defp run_blocks([{line, "console", "$ mix " <> text} | rest], session) do
    [command | expected] = String.split(text, "\n")
    printed = ExUnit.CaptureIO.capture_io(fn -> command |> OptionParser.split() |> mix() end)
    same!(printed, Enum.join(expected, "\n"), session.path, line)
    run_blocks(rest, session)
  end

  defp run_blocks([{line, language, _text} | _rest], session),
    do: flunk("#{session.path}:#{line}: nobody runs a block of #{inspect(language)} here")

  # Runs a Mix command in this VM.
  defp mix(["run", file]), do: Code.eval_file(file)

  defp mix([task | arguments]) do
    Mix.Task.rerun(task, arguments)
  catch
    # A task with findings also reports them by its exit status.
    :exit, {:shutdown, _status} -> :ok
  end

  defp configured(config) do
    for {key, value} <- config[:foundation] || [] do
      before = Application.fetch_env(:foundation, key)
      Application.put_env(:foundation, key, value)

      try do
        # Raises for an unknown setting, or for one of another type.
        _setting = Foundation.Config.get(key)
      after
        case before do
          {:ok, value} -> Application.put_env(:foundation, key, value)
          :error -> Application.delete_env(:foundation, key)
        end
      end
    end
  end

  # Returns what a block prints and logs, its value, and the session after it.
  defp printing(session, line, text) do
    me = self()
    log = [colors: [enabled: false], format: "$metadata[$level] $message\n"]

    logged =
      ExUnit.CaptureLog.capture_log(Keyword.merge(log, session.log), fn ->
        printed =
          ExUnit.CaptureIO.capture_io(fn ->
            send(me, {:session, evaluate(session, line, text)})
          end)

        send(me, {:printed, printed})
      end)

    assert_received {:session, {value, session}}
    assert_received {:printed, printed}
    {printed <> logged, value, session}
  end

  # Splits a block at each `#=>`, with the announced value.
  defp evaluate(session, line, text) do
    text
    |> String.split("\n")
    |> Enum.chunk_by(&String.starts_with?(&1, "#=>"))
    |> Enum.reduce({line, nil, session}, fn lines, {line, value, session} ->
      {value, session} = step(lines, line, value, session)
      {line + length(lines), value, session}
    end)
    |> then(fn {_line, value, session} -> {value, session} end)
  end

  defp step(["#=>" <> _ | _] = lines, line, value, session) do
    text = Enum.map_join(lines, "\n", &String.trim_leading(&1, "#=>"))
    # Compares values, because OTP versions print the keys of a map in different orders.
    {expected, _binding} = Code.eval_string(text)

    assert value == expected,
           "#{session.path}:#{line}: expected\n#{text}\ngot\n#{inspect(value)}"

    {value, session}
  end

  defp step(lines, line, _value, session) do
    quoted = Code.string_to_quoted!(Enum.join(lines, "\n"), file: session.path, line: line)

    # Evaluates one expression after the other, so that a macro is known once its module is defined.
    expressions =
      case quoted do
        {:__block__, _meta, expressions} -> expressions
        expression -> [expression]
      end

    Enum.reduce(expressions, {nil, session}, fn expression, {_value, session} ->
      {value, binding, env} = Code.eval_quoted_with_env(expression, session.binding, session.env)

      {value, %{session | binding: binding, env: env}}
    end)
  end

  # Ignores white space, because a guide breaks long lines.
  defp same!(given, expected, path, line) do
    assert plain(given) == plain(expected),
           "#{path}:#{line}: expected\n#{expected}\ngot\n#{given}"
  end

  defp plain(text), do: text |> String.replace(~r/\s+/, " ") |> String.trim()
end
