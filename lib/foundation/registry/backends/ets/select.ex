defmodule Foundation.Registry.Backends.ETS.Select do
  @moduledoc false
  # Runs a match specification over `{key, pid, value}` in ETS, on the table itself, so only results
  # are copied.
  #
  # Each part is rewritten for the table's rows, and returns the entry's process with its result.
  # Results of dead processes are then left out. A part cannot be rewritten, and the answer is
  # `:error`, if
  #
  #   * it contains `:"$_"` or `:"$$"`, which show how entries are laid out,
  #   * its key is bound but cannot be bound by a pattern (`Table.plain?/1`),
  #   * it is invalid.
  #
  # Then `Foundation.Registry.MatchSpec` runs the specification over copies of the entries, or
  # raises.

  import Foundation.Registry.Backend, only: [alive?: 1]
  import Foundation.Registry.MatchSpec, only: [bound?: 1]

  alias Foundation.Registry.Backends.ETS.Table

  @variables for n <- 9..1//-1, do: :"$#{n}"

  @doc "Returns what `spec` makes of the entries of processes that are alive."
  @spec run(Table.t(), [term]) :: {:ok, [term]} | :error
  def run(table, [{{key, pid, value}, guards, body} = part]) when is_pid(pid) do
    # The process is known, so a single liveness check suffices.
    with true <- alive?(pid),
         {:ok, _rewritten} <- rewrite(table, part) do
      attempt(fn -> select(table, [{Table.row(table, key, pid, value, :_), guards, body}]) end)
    else
      _dead_or_elsewhere -> :error
    end
  end

  def run(table, spec) do
    with {:ok, spec} <- rewrite_all(table, spec),
         do: attempt(fn -> living(select(table, spec)) end)
  end

  @doc "Returns for how many entries of processes that are alive `spec` returns `true`."
  @spec count(Table.t(), [term]) :: {:ok, non_neg_integer} | :error
  def count(table, spec) do
    with {:ok, rewritten} <- rewrite_all(table, spec) do
      if Enum.all?(spec, &match?({_head, _guards, [true]}, &1)) do
        pids = for {head, guards, [{{pid, true}}]} <- rewritten, do: {head, guards, [pid]}
        attempt(fn -> count_living(select(table, pids), 0) end)
      else
        attempt(fn -> count_true(select(table, rewritten), 0) end)
      end
    end
  end

  defp select(table, spec), do: :ets.select(table.entries, spec)

  defp attempt(fun) do
    {:ok, fun.()}
  rescue
    ArgumentError -> :error
  end

  defp living([{pid, result} | rest]) do
    if alive?(pid), do: [result | living(rest)], else: living(rest)
  end

  defp living([]), do: []

  defp count_true([{pid, true} | rest], count) do
    if alive?(pid), do: count_true(rest, count + 1), else: count_true(rest, count)
  end

  defp count_true([_false | rest], count), do: count_true(rest, count)
  defp count_true([], count), do: count

  # Each part returns `true` for every row that it matches.
  defp count_living([pid | rest], count) do
    if alive?(pid), do: count_living(rest, count + 1), else: count_living(rest, count)
  end

  defp count_living([], count), do: count

  ## Rewriting

  defp rewrite_all(table, [_ | _] = spec), do: rewrite_all(table, spec, [])
  defp rewrite_all(_table, _none), do: :error

  defp rewrite_all(_table, [], parts), do: {:ok, Enum.reverse(parts)}

  defp rewrite_all(table, [part | spec], parts) do
    with {:ok, part} <- rewrite(table, part), do: rewrite_all(table, spec, [part | parts])
  end

  defp rewrite(table, {{key, pid, value} = head, guards, [_ | _] = body}) do
    with true <- Table.plain?(key) or not bound?(key),
         used when is_list(used) <- variables([head, guards, body], []),
         {pid, result} <- process(pid, used) do
      {:ok, {Table.row(table, key, pid, value, :_), guards, with_process(body, result)}}
    else
      _elsewhere -> :error
    end
  end

  defp rewrite(_table, _malformed), do: :error

  # The last expression of a body is its result.
  defp with_process([last], process), do: [{{process, last}}]
  defp with_process([first | rest], process), do: [first | with_process(rest, process)]

  # Returns the pattern for the process, and the expression that returns it.
  defp process(:_, used) do
    case @variables -- used do
      [free | _] -> {free, free}
      [] -> :error
    end
  end

  defp process(variable, _used) when variable in @variables, do: {variable, variable}
  defp process(pid, _used) when is_pid(pid), do: {pid, {:const, pid}}
  defp process(_other, _used), do: :error

  # Returns the variables that a term contains, or `:layout`.
  defp variables(_term, :layout), do: :layout
  defp variables(atom, used) when atom in @variables, do: [atom | used]
  defp variables(atom, _used) when atom in [:"$_", :"$$"], do: :layout
  defp variables([head | tail], used), do: variables(tail, variables(head, used))

  defp variables(tuple, used) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> variables(used)

  defp variables(map, used) when is_map(map), do: map |> :maps.to_list() |> variables(used)
  defp variables(_other, used), do: used
end
