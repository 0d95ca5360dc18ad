import Foundation.Conformance.Registry

conformance "KeysOfEveryKind",
  variants: [
    [keys: :unique],
    [keys: :unique, partitions: 4],
    [keys: :duplicate],
    [keys: {:duplicate, :key}, needs: :key_partition]
  ] do
  test "keys are found among all the others", %{registry: registry} do
    terms = terms()

    for {name, key} <- terms,
        do: assert({:ok, _} = Registry.register(registry, key, name), "register: #{name}")

    assert Registry.count(registry) == length(terms)

    for {name, key} <- terms do
      assert Registry.lookup(registry, key) == [{self(), name}], "lookup: #{name}"
      assert Registry.values(registry, key, self()) == [name], "values: #{name}"
      assert Registry.match(registry, key, :_) == [{self(), name}], "match: #{name}"
      assert Registry.count_match(registry, key, :_) == 1, "count_match: #{name}"
    end

    assert same_terms?(Registry.keys(registry, self()), Enum.map(terms, &elem(&1, 1)))

    selected = Registry.select(registry, [{{:"$1", :_, :_}, [], [:"$1"]}])
    assert same_terms?(selected, Enum.map(terms, &elem(&1, 1)))
  end

  test "keys are found by an equal term that was built elsewhere", %{registry: registry} do
    for {name, key} <- terms(), String.printable?(name) do
      {:ok, _} = Registry.register(registry, key, name)
      # In another process, and without memory that the registered key shares.
      found = Task.await(Task.async(fn -> Registry.lookup(registry, rebuild(key)) end))
      assert found == [{self(), name}], name
    end
  end

  needs(:exact_unregister)

  test "keys are unregistered one by one without an effect on the others", %{registry: registry} do
    terms = terms()
    for {name, key} <- terms, do: {:ok, _} = Registry.register(registry, key, name)

    for {{name, key}, gone} <- Enum.with_index(Enum.shuffle(terms), 1) do
      if rem(gone, 2) == 0,
        do: :ok = Registry.unregister(registry, key),
        else: :ok = Registry.unregister_match(registry, key, name)

      assert Registry.lookup(registry, key) == [], name
      assert Registry.count(registry) == length(terms) - gone, name

      if rem(gone, 40) == 0,
        do: assert(length(Registry.keys(registry, self())) == length(terms) - gone)
    end

    assert Registry.keys(registry, self()) == []
  end

  needs(:exact_unregister)

  test "nearly equal keys are different keys", %{registry: registry} do
    for group <- Foundation.Terms.near_misses() do
      present = Enum.take_every(group, 2)
      absent = group -- present

      for {key, index} <- Enum.with_index(present),
          do: {:ok, _} = Registry.register(registry, key, index)

      for key <- absent, do: assert(Registry.lookup(registry, key) == [], inspect(key))

      for {key, index} <- Enum.with_index(present),
          do: assert(Registry.lookup(registry, key) == [{self(), index}], inspect(key))

      for key <- absent do
        :ok = Registry.unregister(registry, key)
        :ok = Registry.unregister_match(registry, key, :_)
      end

      assert same_terms?(Registry.keys(registry, self()), present), inspect(group)
      assert Registry.count(registry) == length(present)

      for {key, left} <- Enum.with_index(Enum.reverse(present), 1) do
        :ok = Registry.unregister(registry, key)
        assert Registry.count(registry) == length(present) - left, inspect(key)
      end
    end
  end

  test "keys 0.0 and -0.0 are equal if and only if === is true", %{registry: registry} do
    [zero, minus_zero] = Foundation.Terms.zeros()

    for {one, other} <- [{zero, minus_zero}, {{:in, zero}, {:in, minus_zero}}] do
      {:ok, _} = Registry.register(registry, one, :one)
      expected = if one === other, do: [{self(), :one}], else: []
      assert Registry.lookup(registry, other) == expected
      :ok = Registry.unregister(registry, one)
    end
  end

  test "keys are returned unchanged, with the sign of a zero", %{registry: registry} do
    for zero <- Foundation.Terms.zeros(), key <- [zero, {:in, zero}, [zero], %{in: zero}] do
      {:ok, _} = Registry.register(registry, key, nil)
      assert [found] = Registry.keys(registry, self())
      assert Foundation.RandomTerms.same?(found, key)
      assert [found] = Registry.select(registry, [{{:"$1", :_, :_}, [], [:"$1"]}])
      assert Foundation.RandomTerms.same?(found, key)
      :ok = Registry.unregister(registry, key)
    end
  end

  test "keys are removed when their process dies", %{registry: registry} do
    worker = start_worker()

    terms =
      run(worker, fn ->
        terms = terms()
        for {name, key} <- terms, do: {:ok, _} = Registry.register(registry, key, name)
        terms
      end)

    assert Registry.count(registry) == length(terms)
    kill(worker)
    if standard?(@subject), do: eventually(fn -> Registry.count(registry) == 0 end)
    for {name, key} <- terms, do: assert(Registry.lookup(registry, key) == [], name)
    eventually(fn -> Registry.count(registry) == 0 end)
  end

  # The standard library compiles a key of {:duplicate, :key} into a match specification. At such a
  # depth OTP's compiler overflows the C stack, and the VM crashes. In a match specification, a map
  # or an atom such as $1 in a tuple is also a pattern, which matches other keys.
  defp terms do
    if standard?(@subject) and @variant[:keys] == {:duplicate, :key},
      do:
        Enum.reject(Foundation.Terms.all(), fn {name, _term} ->
          name =~ ~r/deep|map|struct|tuple with/
        end),
      else: Foundation.Terms.all()
  end

  # A copy that shares no memory. A port has no external format, so it is not copied.
  defp rebuild(term) when is_port(term), do: term
  defp rebuild(term), do: :erlang.binary_to_term(:erlang.term_to_binary(term))

  # A set compares by === and ignores the order.
  defp same_terms?(some, others),
    do: length(some) == length(others) and MapSet.new(some) == MapSet.new(others)
end

conformance "ValuesOfEveryKind", variants: [[keys: :unique], [keys: :duplicate]] do
  test "values are returned unchanged", %{registry: registry} do
    terms = Foundation.Terms.all()

    for {name, value} <- terms, do: {:ok, _} = Registry.register(registry, name, value)

    for {name, value} <- terms do
      assert [{pid, found}] = Registry.lookup(registry, name)
      assert pid == self()
      assert found === value, name
      assert [found] = Registry.values(registry, name, self())
      assert found === value, name
    end
  end

  # The native engine builds a value in buffers of 256 and 4,096 words. The values put the end of a
  # buffer before, in and after a term of each type.
  test "values of every size near a buffer's end come back as given", %{registry: registry} do
    long = :binary.copy("long", 20)
    large = :erlang.bsl(1, 200)

    kinds = [
      {1, 2},
      %{a: 1},
      1.5,
      large,
      "short",
      long,
      make_ref(),
      Map.new(1..40, &{&1, &1}),
      []
    ]

    for around <- [128, 2_048], size <- (around - 110)..(around + 2) do
      value = Enum.to_list(1..size) ++ kinds
      {:ok, _} = Registry.register(registry, size, value)
      assert {size, Registry.lookup(registry, size)} == {size, [{self(), value}]}
    end
  end

  test "values are returned unchanged to another process", %{registry: registry} do
    terms = Foundation.Terms.all()
    for {name, value} <- terms, do: {:ok, _} = Registry.register(registry, name, value)

    mistaken =
      run(start_worker(), fn ->
        :erlang.garbage_collect()

        for {name, value} <- terms,
            Registry.lookup(registry, name) |> hd() |> elem(1) !== value,
            do: name
      end)

    assert mistaken == []
  end

  test "values keep 0.0 and -0.0 apart on an OTP that does", %{registry: registry} do
    [_zero, minus_zero] = Foundation.Terms.zeros()
    {:ok, _} = Registry.register(registry, :key, {minus_zero, [minus_zero]})
    assert [{_, {value, [_]}}] = Registry.lookup(registry, :key)
    assert <<1::1, 0::63>> = <<value::float>>
  end

  test "values outlive the heap of the process that registered them", %{registry: registry} do
    text = :binary.copy("large", 1_000)
    part = binary_part(text, 100, 500)
    value = %{whole: text, part: part, list: Enum.to_list(1..1_000)}
    {:ok, _} = Registry.register(registry, :key, value)
    expected = :erlang.phash2(value)
    :erlang.garbage_collect()
    [{_, found}] = run(start_worker(), fn -> Registry.lookup(registry, :key) end)
    assert :erlang.phash2(found) == expected
  end
end
