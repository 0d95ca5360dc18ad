import Foundation.Conformance.Registry

conformance "Errors", variants: [[keys: :unique], [keys: :duplicate]] do
  test "every function names the unknown registry in its error", _context do
    unknown = unique_name("unknown")

    calls = [
      fn -> Registry.register(unknown, :key, 1) end,
      fn -> Registry.unregister(unknown, :key) end,
      fn -> Registry.unregister_match(unknown, :key, :_) end,
      fn -> Registry.unregister_match(unknown, :key, :_, [{:is_atom, :"$1"}]) end,
      fn -> Registry.lookup(unknown, :key) end,
      fn -> Registry.keys(unknown, self()) end,
      fn -> Registry.values(unknown, :key, self()) end,
      fn -> Registry.match(unknown, :key, :_) end,
      fn -> Registry.match(unknown, :key, :_, []) end,
      fn -> Registry.count(unknown) end,
      fn -> Registry.count_match(unknown, :key, :_) end,
      fn -> Registry.count_match(unknown, :key, :_, []) end,
      fn -> Registry.select(unknown, [{{:_, :_, :_}, [], [true]}]) end,
      fn -> Registry.select(unknown, []) end,
      fn -> Registry.count_select(unknown, [{{:_, :_, :_}, [], [true]}]) end,
      fn -> Registry.dispatch(unknown, :key, fn _ -> :never end) end,
      fn -> Registry.dispatch(unknown, :key, fn _ -> :never end, parallel: true) end,
      fn -> Registry.update_value(unknown, :key, & &1) end,
      fn -> Registry.whereis_name({unknown, :key}) end,
      fn -> Registry.whereis_name({unknown, :key, 1}) end,
      fn -> Registry.register_name({unknown, :key}, self()) end,
      fn -> Registry.unregister_name({unknown, :key}) end,
      fn -> Registry.send({unknown, :key}, :message) end,
      fn -> Agent.start(fn -> 1 end, name: {:via, Registry, {unknown, :key}}) end
    ]

    for {call, index} <- Enum.with_index(calls) do
      error = catch_error(call.())

      assert {index, error} ==
               {index, %ArgumentError{message: "unknown registry: #{inspect(unknown)}"}}
    end
  end

  test "an atom that names no registry is unknown, even if it names something else", _context do
    table = :ets.new(unique_name("table"), [:named_table])

    for name <- [nil, true, :"", :kernel, :code_server, table, Kernel] do
      assert_raise ArgumentError, "unknown registry: #{inspect(name)}", fn ->
        Registry.lookup(name, :key)
      end

      assert_raise ArgumentError, "unknown registry: #{inspect(name)}", fn ->
        Registry.register(name, :key, 1)
      end
    end
  end

  test "an argument of the wrong type matches no clause", %{registry: registry} do
    calls = [
      {:register, 3, ["name", :key, 1]},
      {:unregister, 2, ["name", :key]},
      {:lookup, 2, ["name", :key]},
      {:keys, 2, ["name", self()]},
      {:keys, 2, [registry, :not_a_pid]},
      {:values, 3, ["name", :key, self()]},
      {:match, 4, ["name", :key, :_]},
      {:match, 4, [registry, :key, :_, :not_a_list]},
      {:count, 1, ["name"]},
      {:count_match, 4, ["name", :key, :_]},
      {:count_match, 4, [registry, :key, :_, {:>, 1, 2}]},
      {:unregister_match, 4, [registry, :key, :_, :not_a_list]},
      {:select, 2, ["name", []]},
      {:select, 2, [registry, {:not, :a, :list}]},
      {:count_select, 2, ["name", []]},
      {:count_select, 2, [registry, :not_a_list]},
      {:dispatch, 4, ["name", :key, fn _ -> 1 end]},
      {:dispatch, 4, [registry, :key, fn -> 1 end]},
      {:dispatch, 4, [registry, :key, {IO, :inspect}]},
      {:update_value, 3, ["name", :key, & &1]},
      {:update_value, 3, [registry, :key, fn -> 1 end]},
      {:update_value, 3, [registry, :key, 1]}
    ]

    # Uses apply/3, because later compilers would find these mistakes and warn.
    for {name, arity, arguments} <- calls do
      message = "no function clause matching in #{inspect(Registry)}.#{name}/#{arity}"
      assert_raise FunctionClauseError, message, fn -> apply(Registry, name, arguments) end
    end
  end

  test "the callbacks of :via accept only pairs and triples", %{registry: registry} do
    for {name, arguments} <- [
          {:whereis_name, [registry]},
          {:whereis_name, [{registry, 1, 2, 3}]},
          {:register_name, [{registry}, self()]},
          {:unregister_name, [registry]},
          {:send, [registry, :message]}
        ],
        do: assert_raise(FunctionClauseError, fn -> apply(Registry, name, arguments) end)
  end

  test "unregister_match/3 has no guard for the name", _context do
    assert_raise ArgumentError, ~s(unknown registry: "name"), fn ->
      Registry.unregister_match("name", :key, :_)
    end
  end
end

conformance "DropIn", subjects: :ours do
  test "has every function of the standard library's Registry", _context do
    internal = [__unregister__: 3, __unregister__: 4]
    missing = (Elixir.Registry.__info__(:functions) -- internal) -- Registry.__info__(:functions)
    assert missing == []
  end

  test "has the functions that newer standard libraries have", _context do
    exported = Registry.__info__(:functions)
    for later <- [lock: 3, values: 3, count_select: 2], do: assert(later in exported)
  end

  test "marks the deprecated start_link/2,3 as deprecated", _context do
    deprecated = Registry.__info__(:deprecated)
    assert [_, _] = for({{:start_link, arity}, text} <- deprecated, do: {arity, text})
  end

  test "register/3 returns the process registered under the table's name", context do
    assert Registry.register(context.registry, :key, 1) == {:ok, context.owner}
    assert context.owner == Process.whereis(context.registry)
  end

  test "links no registrant", %{registry: registry, owner: owner} do
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, :key, 1) end)
    assert Process.info(worker, :links) == {:links, []}
    refute worker in elem(Process.info(owner, :links), 1)
  end
end
