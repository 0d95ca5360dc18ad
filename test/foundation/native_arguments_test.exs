defmodule Foundation.NativeArgumentsTest do
  use Foundation.Case, async: true

  alias Foundation.Native

  # What each argument of each function of the registries may be. Terms that are of another type
  # are refused with an ArgumentError, wherever they stand: no crash, no panic, no other answer.
  @arguments %{
    concurrent_put: [:table, :any, :any],
    concurrent_put_new: [:table, :any, :any],
    concurrent_get: [:table, :any, :any],
    concurrent_fetch: [:table, :any],
    concurrent_replace: [:table, :any, :natural, :any],
    concurrent_delete: [:table, :any],
    concurrent_size: [:table],
    concurrent_walk: [:table, :natural],
    registry_start: [:name, :kind, :natural, :atoms, :pairs, :bound, :bound],
    registry_stop: [:name],
    registry_config: [:name],
    registry_info: [:name],
    registry_count: [:name],
    registry_register: [:name, :any, :any],
    registry_register_for: [:name, :pid, :any, :any],
    registry_unregister: [:name, :any],
    registry_unregister_for: [:name, :pid, :any],
    registry_whereis: [:name, :any],
    registry_replace: [:name, :any, :pid, :any, :any],
    registry_lookup: [:name, :any],
    registry_lookup_many: [:name, :list],
    registry_values: [:name, :any, :pid],
    registry_entries: [:name, :any, :pid],
    registry_remove: [:name, :any, :pid, :numbers],
    registry_keys: [:name, :pid, :natural],
    registry_walk: [:name, :walk_cursor],
    registry_walk_key: [:name, :any, :natural],
    registry_broadcast: [:name, :any, :any, :natural],
    registry_meta: [:name, :any],
    registry_put_meta: [:name, :any, :any],
    registry_delete_meta: [:name, :any],
    registry_remote_down: [:name, :foreign_pid],
    registry_remotes: [:name],
    registry_watch: [:local_pid]
  }

  setup do
    unique = unique_name("arguments")
    start_supervised!({Foundation.Registry, name: unique, keys: :unique, engine: :native}, id: :u)
    duplicate = unique_name("arguments")

    start_supervised!({Foundation.Registry, name: duplicate, keys: :duplicate, engine: :native},
      id: :d
    )

    %{names: [unique, duplicate]}
  end

  test "every function of the registries that takes any is in the table" do
    functions =
      for {name, arity} <- Native.__info__(:functions),
          String.starts_with?(Atom.to_string(name), ["registry_", "concurrent_"]),
          arity > 0,
          do: {name, arity}

    assert functions == Enum.sort(for({name, types} <- @arguments, do: {name, length(types)}))
  end

  for {function, types} <- @arguments,
      {type, position} <- Enum.with_index(types),
      type != :any do
    test "#{function} refuses what is no #{type} at #{position}", %{names: names} do
      types = @arguments[unquote(function)]

      for name <- names,
          {wrong, tag} <- terms(),
          tag not in accepted(unquote(type)) do
        arguments =
          types
          |> Enum.map(&valid(&1, name))
          |> List.replace_at(unquote(position), wrong)

        assert_raise ArgumentError, fn ->
          result = apply(Native, unquote(function), arguments)
          flunk("#{unquote(function)}: took #{inspect(wrong)} and gave #{inspect(result)}")
        end
      end
    end
  end

  test "cursors that were never given out are answered", %{names: names} do
    for name <- names do
      for key <- 1..50, do: Native.registry_register(name, key, key)

      for cursor <- [1, 2 ** 63, 2 ** 64 - 1, {1, 2, 3}, {2 ** 64 - 1, 2 ** 64 - 1, 2 ** 64 - 1}] do
        assert {entries, _cursor} = Native.registry_walk(name, cursor)
        assert is_list(entries)
      end

      for number <- [1, 2 ** 32, 2 ** 64 - 1] do
        assert {entries, :done} = Native.registry_walk_key(name, 1, number)
        assert is_list(entries)
        assert {sent, [], :done} = Native.registry_broadcast(name, 1, :message, number)
        assert sent in 0..1
      end
    end
  end

  defp terms do
    [
      {:no_kind_and_no_registry, :atom},
      {7, :natural},
      {-1, :negative},
      {2 ** 64, :bignum},
      {2 ** 200, :bignum},
      {1.5, :float},
      {"binary", :binary},
      {<<1::3>>, :bitstring},
      {{1, 2}, :pair},
      {{1, 2, 3}, :cursor},
      {{}, :tuple},
      {%{}, :map},
      {fn -> :fun end, :fun},
      {make_ref(), :reference},
      {self(), :local_pid},
      {foreign_pid(), :foreign_pid},
      {[], :empty},
      {[:a, :b], :atoms},
      {[1, 2], :numbers},
      {[a: 1, b: 2], :pairs},
      {[1 | 2], :improper},
      {[:a | :b], :improper},
      {[{:a, 1} | :b], :improper}
    ]
    |> Enum.concat(for port <- Enum.take(Port.list(), 1), do: {port, :port})
  end

  # An atom that names no registry is answered with nil.
  defp accepted(:name), do: [:atom]
  defp accepted(:kind), do: []
  defp accepted(:table), do: []
  defp accepted(:natural), do: [:natural]
  defp accepted(:bound), do: [:natural]
  defp accepted(:atoms), do: [:atoms, :empty]
  defp accepted(:numbers), do: [:numbers, :empty]
  defp accepted(:pairs), do: [:pairs, :empty]
  defp accepted(:list), do: [:empty, :atoms, :numbers, :pairs, :improper]
  defp accepted(:walk_cursor), do: [:natural, :cursor]
  defp accepted(:pid), do: [:local_pid, :foreign_pid]
  defp accepted(:foreign_pid), do: [:foreign_pid]
  defp accepted(:local_pid), do: [:local_pid]

  defp valid(:name, name), do: name
  defp valid(:kind, _name), do: :unique
  defp valid(:table, _name), do: Native.concurrent_new()
  defp valid(:natural, _name), do: 0
  defp valid(:bound, _name), do: :infinity
  defp valid(:walk_cursor, _name), do: 0
  defp valid(:pid, _name), do: self()
  defp valid(:local_pid, _name), do: self()
  defp valid(:foreign_pid, _name), do: foreign_pid()
  defp valid(:any, _name), do: :term
  defp valid(_list, _name), do: []
end
