defmodule Foundation.Audit do
  @moduledoc """
  Finds the use of the process dictionary in source code.

  This is what `mix foundation.audit` runs; call it where an answer is wanted as a term, such as
  in a test that keeps a code base free of it:

      test "no state hides in the process dictionary" do
        assert Foundation.Audit.run(["lib"]).findings == []
      end

  ## What is found

  Calls of `Process.put`, `get`, `delete`, `get_keys` and `erase`, and of `:erlang.put`, `get`,
  `erase` and `get_keys`, in every arity. Source is read as a syntax tree in which aliases and
  imports are followed as the compiler follows them, by lexical scope. So these are found:

    * through `alias` (also `as:`, `A.{B, C}`, `require ..., as:` and an alias of an alias) and
      `import` (with its `:only` and `:except`);
    * written `Elixir.Process` or `:"Elixir.Process"`;
    * through `apply/3` (also `Kernel.apply` and `:erlang.apply`), `Function.capture/3` and
      `:erlang.make_fun`, where module and function are literals;
    * as module, function and arguments of a call that runs them elsewhere or later: `spawn/3`,
      `Task.async/3`, `:rpc.call/4`, `:timer.apply_after/4` and their siblings in `Kernel`, `Node`,
      `Process`, `Task`, `Task.Supervisor`, `Agent`, `:erlang`, `:proc_lib`, `:rpc`, `:erpc` and
      `:timer`;
    * as a capture (`&Process.put/2`), in a pipe, inside `quote`, by `defdelegate`.

  The audit ignores a module of your own called `Process`, by `alias My.Process` or nested in the
  current module. It also ignores functions and variables called `put`, typespecs, strings and
  comments.

  ## What is not found

  The audit cannot see these:

    * a module or function that is known only at run time: `module.put(:key, 1)` with a variable or
      a module attribute, `apply(module, function, arguments)`;
    * module, function and arguments as data: in a tuple `{Process, :put, args}`, in a list, or
      given to a function that is not named above, such as one of your own;
    * what the macros of another module (`use Other`) bring into a file, code in a string
      (`Code.eval_string/1`), and templates;
    * Erlang source, and reads of another process (`Process.info(pid, :dictionary)`).

  A directory that cannot be listed, and a pipe or a device in place of a file, is a problem in the
  result.
  """

  alias Foundation.Audit.{AllowList, Calls, Files, Source, Walker}
  alias Foundation.Options

  @schema [
    allow: [
      type: {:list_of, :string},
      default: [],
      doc: """
      Globs of files in which the process dictionary may be used; they are not read. `*` and
      `?` match within one segment of a path, `**` across segments, `{a,b}` either; a glob
      without any of them also stands for everything below it. Relative ones are seen from the
      working directory.
      """
    ]
  ]

  @typedoc """
  One use: the file, the line, the call and its replacement. The call reads `"Process.put/2"`,
  without the arity if the source does not show it.
  """
  @type finding :: %{
          file: Path.t(),
          line: pos_integer,
          call: String.t(),
          suggestion: String.t()
        }

  @typedoc "A path that could not be audited, the line (where there is one), and why."
  @type problem :: %{file: Path.t(), line: pos_integer | nil, message: String.t()}

  @typedoc "The findings by file and line, what could not be read, and how many files were read."
  @type result :: %{findings: [finding], problems: [problem], files: non_neg_integer}

  @doc """
  Audits the `.ex` and `.exs` files at and below `paths`.

  Below a directory, files and directories whose name begins with a dot are left out, and so are
  `deps` and `_build` beside a `mix.exs`. A file that cannot be read or parsed is a problem in the
  result, never a raise. Costs one parse of each file; creates no atoms.

  Options:

  #{Options.docs(@schema)}

  Raises `ArgumentError` for any other option.

      iex> Foundation.Audit.run(["lib/foundation/audit.ex"])
      %{findings: [], problems: [], files: 1}

      iex> %{problems: [problem]} = Foundation.Audit.run(["no/such/path"])
      iex> problem
      %{file: "no/such/path", line: nil, message: "no such file or directory"}
  """
  @doc since: "0.1.0"
  @spec run([Path.t()], allow: [String.t()]) :: result
  def run(paths, options \\ []) when is_list(paths) do
    options = Options.validate!(options, @schema, "the audit's options")
    allowed = AllowList.compile(options[:allow])
    {files, problems} = Files.find(paths)
    files = Enum.reject(files, &AllowList.allows?(allowed, &1))

    {findings, unread} =
      files
      |> Enum.map(fn file ->
        case Source.read(file) do
          {:ok, source} -> scan(source, file)
          {:error, problem} -> {:error, problem}
        end
      end)
      |> Enum.reduce({[], []}, fn
        {:ok, found}, {findings, problems} -> {[found | findings], problems}
        {:error, problem}, {findings, problems} -> {findings, [problem | problems]}
      end)

    %{
      findings: findings |> Enum.reverse() |> Enum.concat(),
      problems: problems ++ Enum.reverse(unread),
      files: length(files)
    }
  end

  @doc """
  Audits source text, of which `file` is the name to report. Touches no file; creates no atoms.

      iex> source = "alias Process, as: P\\nP.put(:user, 1)"
      iex> {:ok, [finding]} = Foundation.Audit.scan(source, "a.ex")
      iex> {finding.file, finding.line, finding.call}
      {"a.ex", 2, "Process.put/2"}

      iex> {:error, problem} = Foundation.Audit.scan("x = 1\\ndef f(", "a.ex")
      iex> {problem.file, problem.line}
      {"a.ex", 2}
  """
  @doc since: "0.1.0"
  @spec scan(String.t(), Path.t()) :: {:ok, [finding]} | {:error, problem}
  def scan(source, file) when is_binary(source) do
    with {:ok, tree} <- Source.parse(source, file) do
      {:ok,
       for {line, call, function} <- Walker.calls(tree) do
         %{file: file, line: line, call: call, suggestion: Calls.suggestion(function)}
       end}
    end
  end
end
