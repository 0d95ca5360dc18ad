# Where Credo is not installed, a stand-in has the functions that the check calls. The check is
# compiled with it.
unless Code.ensure_loaded?(Credo.Check) do
  defmodule Credo.SourceFile do
    defstruct [:filename, :source]
    def parse(source, filename), do: %__MODULE__{filename: filename, source: source}
    def source(%__MODULE__{source: source}), do: source
  end

  defmodule Credo.IssueMeta do
    def for(source_file, params), do: {__MODULE__, source_file, params}
  end

  defmodule Credo.Check do
    @callback run(struct, keyword) :: [map]

    defmacro __using__(options) do
      quote do
        @behaviour Credo.Check
        def category, do: unquote(options[:category])

        defp format_issue({Credo.IssueMeta, source_file, _params}, options) do
          options |> Map.new() |> Map.put(:filename, source_file.filename)
        end
      end
    end
  end

  Code.compile_file("lib/foundation/audit/credo_check.ex")
end

defmodule Foundation.Audit.CredoCheckTest do
  use ExUnit.Case, async: true

  setup_all do
    # Credo keeps sources in its own processes. The stand-in has none.
    if Application.spec(:credo), do: {:ok, _} = Application.ensure_all_started(:credo)
    :ok
  end

  defp issues(source) do
    # The module exists only after this file has compiled it.
    check = Module.concat(Foundation.Audit, CredoCheck)
    check.run(Credo.SourceFile.parse(source, "lib/a.ex"), [])
  end

  test "each finding of the audit is an issue on its line" do
    assert [issue] =
             issues("defmodule A do\n  alias Process, as: P\n  def f, do: P.get(:a)\nend\n")

    assert %{filename: "lib/a.ex", line_no: 3, trigger: "Process.get"} = issue
    assert issue.message =~ "Process.get/1 uses the process dictionary: read it where it is kept"
  end

  test "a clean file and a file that does not parse have no issue" do
    assert issues("defmodule A do\n  def f, do: 1\nend\n") == []
    assert issues("def f(") == []
  end
end
