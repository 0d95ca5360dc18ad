defmodule Foundation.Registry.Dispatch do
  @moduledoc false
  # Calls a dispatcher with a key's entries, by partition if the registry has partitions. The tables
  # have none. Elixir's Registry promises one call per partition to a registry with `:partitions`,
  # in parallel on request. This module keeps that promise: it groups the registrants as Elixir
  # does.

  @type dispatcher :: ([{pid, term}] -> term) | {module, atom, [term]}

  @doc "Into how many groups a registry of this configuration divides entries."
  @spec groups(tuple) :: pos_integer
  def groups({:duplicate_pid, partitions, _listeners, _owner}), do: partitions
  def groups(_config), do: 1

  @doc "Calls `dispatcher` once for each partition that has entries."
  @spec run([{pid, term}], pos_integer, dispatcher, keyword) :: :ok
  def run(entries, partitions, dispatcher, options) when partitions > 1 do
    groups = Enum.group_by(entries, fn {pid, _value} -> :erlang.phash2(pid, partitions) end)

    if Keyword.get(options, :parallel, false),
      do: parallel(groups, dispatcher),
      else: for({_partition, entries} <- groups, do: apply_to(dispatcher, entries))

    :ok
  end

  def run([], _partitions, _dispatcher, _options), do: :ok

  def run(entries, _partitions, dispatcher, _options) do
    apply_to(dispatcher, entries)
    :ok
  end

  defp parallel(groups, dispatcher) do
    parent = self()

    groups
    |> Enum.map(fn {_partition, entries} ->
      Task.async(fn ->
        apply_to(dispatcher, entries)
        # A caller that traps exits must not get an exit message of this process.
        Process.unlink(parent)
      end)
    end)
    |> Enum.each(&Task.await(&1, :infinity))
  end

  defp apply_to({module, function, arguments}, entries),
    do: apply(module, function, [entries | arguments])

  defp apply_to(fun, entries), do: fun.(entries)
end
