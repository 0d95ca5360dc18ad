defmodule Bench.VM do
  @moduledoc false
  # Runs a script in a VM of its own.

  @doc "Runs `script` and returns the Erlang term that it prints. `flags` are options of the VM."
  def run(script, arguments, flags \\ nil) do
    paths = Enum.flat_map(:code.get_path(), &["-pa", List.to_string(&1)])
    flags = if flags, do: ["--erl", flags], else: []

    case System.cmd("elixir", flags ++ paths ++ [script | arguments]) do
      {output, 0} ->
        {:ok, tokens, _line} = output |> String.to_charlist() |> :erl_scan.string()
        {:ok, term} = :erl_parse.parse_term(tokens)
        term

      {output, status} ->
        raise "#{Path.basename(script)} ended with status #{status}:\n#{output}"
    end
  end
end
