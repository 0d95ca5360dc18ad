# For those who have Credo: it is an optional dependency.
if Code.ensure_loaded?(Credo.Check) do
  defmodule Foundation.Audit.CredoCheck do
    @moduledoc """
    A Credo check that reports what `Foundation.Audit` finds.

    In `.credo.exs`:

        %{
          configs: [
            %{
              name: "default",
              checks: %{extra: [{Foundation.Audit.CredoCheck, []}]}
            }
          ]
        }

    Files are left out as for any other check, with `files: %{excluded: [...]}` in its parameters.
    """

    use Credo.Check,
      category: :design,
      base_priority: :high,
      explanations: [
        check: """
        State in the process dictionary is invisible to supervisors and observers, is not there
        in another process, and is lost with the one that put it there.

        Keep it where it is supervised and can be seen: in the tables, context and registries
        of Foundation.
        """
      ]

    alias Credo.{IssueMeta, SourceFile}

    @doc false
    @impl true
    def run(%SourceFile{} = source_file, params) do
      meta = IssueMeta.for(source_file, params)

      case Foundation.Audit.scan(SourceFile.source(source_file), source_file.filename) do
        {:ok, findings} -> Enum.map(findings, &issue(&1, meta))
        # Credo itself reports a file that does not parse.
        {:error, _problem} -> []
      end
    end

    defp issue(finding, meta) do
      format_issue(meta,
        message: "#{finding.call} uses the process dictionary: #{finding.suggestion}.",
        trigger: finding.call |> String.split("/") |> hd(),
        line_no: finding.line
      )
    end
  end
end
