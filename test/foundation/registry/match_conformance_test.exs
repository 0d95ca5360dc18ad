import Foundation.Conformance.Registry

conformance "MatchSpecs",
  variants: [
    [keys: :unique],
    [keys: :unique, partitions: 4],
    [keys: :duplicate],
    [keys: :duplicate, partitions: 4],
    [keys: {:duplicate, :key}, partitions: 4, needs: :key_partition]
  ] do
  describe "match/3,4" do
    test "gives the pairs under the key whose value matches", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", {1, :atom, 1})
      {:ok, _} = Registry.register(registry, "other", {1, :atom, 1})
      pair = {self(), {1, :atom, 1}}

      for pattern <- [:_, :"$1", {1, :_, :_}, {:_, :atom, :_}, {:"$1", :_, :"$1"}, {1, :atom, 1}],
          do: assert(Registry.match(registry, "key", pattern) == [pair])

      for pattern <- [1, {2, :_, :_}, {1, :atom}, {:"$1", :"$1", :_}, {1.0, :atom, 1}, "key"],
          do: assert(Registry.match(registry, "key", pattern) == [])

      assert Registry.match(registry, "absent", :_) == []
    end

    test "takes guards over what the pattern binds", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", {1, :atom, 2})
      pair = {self(), {1, :atom, 2}}
      pattern = {:"$1", :"$2", :"$3"}

      assert Registry.match(registry, "key", pattern, [{:<, :"$1", :"$3"}]) == [pair]
      assert Registry.match(registry, "key", pattern, [{:>, :"$1", :"$3"}]) == []
      assert Registry.match(registry, "key", pattern, [{:is_atom, :"$2"}]) == [pair]
      assert Registry.match(registry, "key", pattern, [{:is_atom, :"$1"}]) == []

      assert Registry.match(registry, "key", pattern, [{:is_atom, :"$2"}, {:==, :"$1", 2}]) == []

      assert Registry.match(registry, "key", pattern, [
               {:orelse, {:==, :"$1", 2}, {:==, :"$3", 2}}
             ]) == [pair]
    end

    test "a guard that fails does not match", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", :not_a_number)
      assert Registry.match(registry, "key", :"$1", [{:>, {:+, :"$1", 1}, 0}]) == []
    end

    test "matches a part of a map value", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", %{a: 1, b: 2})
      assert Registry.match(registry, "key", %{a: 1}) == [{self(), %{a: 1, b: 2}}]
      assert Registry.match(registry, "key", %{a: 2}) == []
      guards = [{:==, {:map_get, :b, :"$1"}, 2}]
      assert Registry.match(registry, "key", :"$1", guards) == [{self(), %{a: 1, b: 2}}]
    end

    test "tells 0.0 from -0.0 in a value, on every OTP", %{registry: registry} do
      for zero <- Foundation.Terms.zeros(), pattern <- Foundation.Terms.zeros() do
        {:ok, _} = Registry.register(registry, "key", {:in, zero})
        matches = if Foundation.RandomTerms.same?(zero, pattern), do: 1, else: 0
        assert length(Registry.match(registry, "key", {:in, pattern})) == matches
        assert Registry.count_match(registry, "key", {:in, pattern}) == matches
        :ok = Registry.unregister_match(registry, "key", {:in, pattern})
        assert Registry.count(registry) == 1 - matches
        :ok = Registry.unregister(registry, "key")
      end
    end

    test "takes the key as it is, not as a pattern", %{registry: registry} do
      {:ok, _} = Registry.register(registry, :key, 1)
      {:ok, _} = Registry.register(registry, {:key, 1}, 2)
      {:ok, _} = Registry.register(registry, %{key: 1, more: 2}, 3)

      for key <- [:_, :"$1", :"$_", {:_, 1}, {:"$1", :"$2"}, %{}, %{key: 1}, [], 1, 1.0] do
        assert Registry.match(registry, key, :_) == []
        assert Registry.count_match(registry, key, :_) == 0
      end

      assert Registry.match(registry, %{key: 1, more: 2}, :_) == [{self(), 3}]
    end
  end

  test "count_match/3,4 counts what match/3,4 gives", %{registry: registry} do
    {:ok, _} = Registry.register(registry, "key", {1, :atom})
    assert Registry.count_match(registry, "key", :_) == 1
    assert Registry.count_match(registry, "key", {1, :_}) == 1
    assert Registry.count_match(registry, "key", {2, :_}) == 0
    assert Registry.count_match(registry, "absent", :_) == 0
    assert Registry.count_match(registry, "key", {:"$1", :_}, [{:>, :"$1", 0}]) == 1
    assert Registry.count_match(registry, "key", {:"$1", :_}, [{:>, :"$1", 1}]) == 0
  end

  describe "select/2" do
    setup %{registry: registry} do
      worker = start_worker()
      {:ok, _} = Registry.register(registry, "a", {1, :x})
      {:ok, _} = Registry.register(registry, {:b, 1}, {2, :y})
      {:ok, _} = run(worker, fn -> Registry.register(registry, "c", {3, :x}) end)
      %{worker: worker}
    end

    test "of a match-all pattern returns every entry", %{registry: registry, worker: worker} do
      all = [{{:"$1", :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}]

      assert Enum.sort(Registry.select(registry, all)) ==
               Enum.sort([
                 {"a", self(), {1, :x}},
                 {{:b, 1}, self(), {2, :y}},
                 {"c", worker, {3, :x}}
               ])

      assert Registry.select(registry, []) == []
    end

    test "binds key, process and value", %{registry: registry, worker: worker} do
      assert Registry.select(registry, [{{"a", :_, :"$1"}, [], [:"$1"]}]) == [{1, :x}]
      assert Registry.select(registry, [{{"absent", :_, :_}, [], [true]}]) == []
      assert Registry.select(registry, [{{:"$1", worker, :_}, [], [:"$1"]}]) == ["c"]

      assert Enum.sort(Registry.select(registry, [{{:"$1", :_, {:_, :x}}, [], [:"$1"]}])) ==
               ["a", "c"]

      assert Registry.select(registry, [{{:_, :_, {:"$1", :y}}, [], [:"$1"]}]) == [2]
    end

    test "matches a part of a key", %{registry: registry} do
      assert Registry.select(registry, [{{{:b, :"$1"}, :_, :_}, [], [:"$1"]}]) == [1]
      assert Registry.select(registry, [{{{:"$1", 1}, :_, :_}, [], [:"$1"]}]) == [:b]
      assert Registry.select(registry, [{{{:_, 2}, :_, :_}, [], [true]}]) == []
    end

    test "takes guards and builds any shape", %{registry: registry, worker: worker} do
      guards = [{:is_binary, :"$1"}, {:"/=", :"$2", self()}]
      body = [%{key: :"$1", pid: :"$2", list: [:"$1", {{:found, :"$3"}}]}]

      assert Registry.select(registry, [{{:"$1", :"$2", :"$3"}, guards, body}]) ==
               [%{key: "c", pid: worker, list: ["c", {:found, {3, :x}}]}]

      assert Registry.select(registry, [{{"a", :_, :"$1"}, [], [{:element, 1, :"$1"}]}]) == [1]
      assert Registry.select(registry, [{{"a", :_, :"$1"}, [], [{{:const, :"$1"}}]}]) != []
    end

    test "selects the parts of entries that OTP selects", %{registry: registry, worker: worker} do
      entries = [{"a", self(), {1, :x}}, {{:b, 1}, self(), {2, :y}}, {"c", worker, {3, :x}}]
      names = [:_, :"$1", :"$2"]
      heads = for key <- ["a" | names], pid <- names, value <- names, do: {key, pid, value}
      heads = [{:"$1", :"$2", :"$3"}, {:"$3", :"$2", :"$1"} | heads]
      pairs = [{{:"$1", :"$2"}}, {{:"$2", :"$1"}}, {{:"$1", :"$1"}}]
      bodies = [true, :other, :"$1", :"$2", {{:"$1"}}, {{:"$1", :"$2", :"$3"}} | pairs]

      for head <- heads, body <- bodies do
        spec = [{head, [], [body]}]

        case :ets.test_ms({:key, :pid, :value}, spec) do
          {:ok, _result} ->
            expected = :ets.match_spec_run(entries, :ets.match_spec_compile(spec))
            selected = Registry.select(registry, spec)
            assert {spec, Enum.sort(selected)} == {spec, Enum.sort(expected)}
            trues = Enum.count(expected, &(&1 == true))
            assert {spec, Registry.count_select(registry, spec)} == {spec, trues}

          {:error, _errors} ->
            assert_raise ArgumentError, fn -> Registry.select(registry, spec) end
        end
      end
    end

    test "returns an entry once, by the first clause that matches", %{registry: registry} do
      spec = [
        {{:_, :_, {:_, :x}}, [], [:x]},
        {{"a", :_, :_}, [], [:never]},
        {{:"$1", :_, :_}, [{:is_tuple, :"$1"}], [:tuple]}
      ]

      assert Enum.sort(Registry.select(registry, spec)) == [:tuple, :x, :x]
    end

    test "does not return removed entries", %{registry: registry, worker: worker} do
      :ok = Registry.unregister(registry, "a")
      kill(worker)

      eventually(fn ->
        Registry.select(registry, [{{:"$1", :_, :_}, [], [:"$1"]}]) == [{:b, 1}]
      end)
    end
  end

  describe "count_select/2" do
    test "counts the entries for which the body is true", %{registry: registry} do
      for index <- 1..10, do: {:ok, _} = Registry.register(registry, {:key, index}, index)

      assert Registry.count_select(registry, [{:_, [], [true]} |> put_elem(0, {:_, :_, :_})]) ==
               10

      assert Registry.count_select(registry, [{{:_, :_, :_}, [], [false]}]) == 0
      assert Registry.count_select(registry, [{{:_, :_, :_}, [], [:other]}]) == 0
      assert Registry.count_select(registry, [{{:_, :_, :"$1"}, [{:>, :"$1", 7}], [true]}]) == 3
      assert Registry.count_select(registry, [{{:_, :_, :"$1"}, [], [{:>, :"$1", 7}]}]) == 3
      assert Registry.count_select(registry, [{{{:key, 5}, :_, :_}, [], [true]}]) == 1
      assert Registry.count_select(registry, []) == 0

      spec = [{{:_, :_, 1}, [], [true]}, {{:_, :_, 2}, [], [true]}, {{:_, :_, 1}, [], [true]}]
      assert Registry.count_select(registry, spec) == 2
    end
  end

  describe "a wrong match specification" do
    test "of select/2 and count_select/2 raises with the specification", %{registry: registry} do
      for spec <- [
            [{:_, [], [:"$_"]}],
            [:wrong],
            [{{:a, :b}, [], []}],
            [{{:a, :b, :c, :d}, [], [1]}]
          ] do
        message = "invalid match specification in #{inspect(Registry)}.select/2: #{inspect(spec)}"
        assert_raise ArgumentError, message, fn -> Registry.select(registry, spec) end

        message =
          "invalid match specification in #{inspect(Registry)}.count_select/2: #{inspect(spec)}"

        assert_raise ArgumentError, message, fn -> Registry.count_select(registry, spec) end
      end
    end

    test "that ETS rejects raises, even for an absent key", %{registry: registry} do
      {:ok, _} = Registry.register(registry, "key", 1)

      for call <- [
            fn -> Registry.select(registry, [{{:_, :_, :_}, [{:no_such_guard, 1}], [true]}]) end,
            fn -> Registry.select(registry, [{{:_, :_, :_}, [], [:"$1"]}]) end,
            fn -> Registry.select(registry, [{{:_, :_, :_}, [], []}]) end,
            fn -> Registry.select(registry, [{{"absent", :_, :_}, [], [:"$1"]}]) end,
            fn ->
              Registry.count_select(registry, [{{:_, :_, :_}, [{:no_such_guard}], [true]}])
            end,
            fn -> Registry.match(registry, "key", :_, [{:no_such_guard, 1}]) end,
            fn -> Registry.match(registry, "absent", :_, [{:no_such_guard, 1}]) end,
            fn -> Registry.count_match(registry, "key", :_, [:"$1"]) end,
            fn -> Registry.unregister_match(registry, "key", :_, [{:no_such_guard, 1}]) end
          ] do
        assert_raise ArgumentError, ~r/2nd argument: not a valid match specification/, call
      end

      assert Registry.values(registry, "key", self()) == [1]
    end
  end
end

conformance "MatchSpecsOfDuplicates",
  variants: [
    [keys: :duplicate],
    [keys: :duplicate, partitions: 4],
    [keys: {:duplicate, :key}, needs: :key_partition]
  ] do
  test "match, count_match and select return each entry of a key", %{registry: registry} do
    worker = start_worker()

    for value <- [{1, :a}, {2, :b}, {2, :c}],
        do: {:ok, _} = Registry.register(registry, "k", value)

    {:ok, _} = run(worker, fn -> Registry.register(registry, "k", {2, :d}) end)

    assert Enum.sort(Registry.match(registry, "k", {2, :_})) ==
             Enum.sort([{self(), {2, :b}}, {self(), {2, :c}}, {worker, {2, :d}}])

    assert Registry.match(registry, "k", {:"$1", :_}, [{:<, :"$1", 2}]) == [{self(), {1, :a}}]
    assert Registry.count_match(registry, "k", {2, :_}) == 3
    assert Registry.count_match(registry, "k", {:"$1", :_}, [{:>, :"$1", 2}]) == 0

    assert Enum.sort(Registry.select(registry, [{{"k", self(), {:_, :"$1"}}, [], [:"$1"]}])) ==
             [:a, :b, :c]

    assert Registry.count_select(registry, [{{"k", :_, {2, :_}}, [], [true]}]) == 3
  end

  test "equal entries are counted separately", %{registry: registry} do
    for _time <- 1..3, do: {:ok, _} = Registry.register(registry, "k", :same)
    assert Registry.match(registry, "k", :same) == List.duplicate({self(), :same}, 3)
    assert Registry.count_match(registry, "k", :same) == 3
    assert Registry.count_select(registry, [{{:_, :_, :same}, [], [true]}]) == 3
  end
end

# Up to OTP 26, ETS compares a bound map key as a whole; later it matches it as a pattern. So the
# standard library's answer depends on OTP. Ours compares a bound key by === on every OTP.
conformance "BoundMapKeys", subjects: :ours, variants: [[keys: :unique], [keys: :duplicate]] do
  test "select/2 takes a bound map key exactly", %{registry: registry} do
    keys = [%{}, %{a: 1}, %{a: 1, b: 2}, {:in, %{a: 1}}, {:in, %{a: 1, b: 2}}]
    for key <- keys, do: {:ok, _} = Registry.register(registry, key, :value)

    for key <- keys do
      assert Registry.select(registry, [{{key, :_, :"$1"}, [], [:"$1"]}]) == [:value]
      assert Registry.count_select(registry, [{{key, :_, :_}, [], [true]}]) == 1
    end

    assert Registry.select(registry, [{{%{b: 2}, :_, :_}, [], [true]}]) == []
  end

  test "a bound key is compared by ===", %{registry: registry} do
    {:ok, _} = Registry.register(registry, 1, :integer)
    {:ok, _} = Registry.register(registry, 1.0, :float)
    assert Registry.select(registry, [{{1, :_, :"$1"}, [], [:"$1"]}]) == [:integer]
    assert Registry.select(registry, [{{1.0, :_, :"$1"}, [], [:"$1"]}]) == [:float]
  end
end
