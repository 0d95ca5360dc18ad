import Foundation.Conformance.Registry

conformance "Metadata",
  variants: [
    [keys: :unique],
    [keys: :unique, partitions: 4],
    [keys: :duplicate],
    [keys: {:duplicate, :key}, needs: :key_partition]
  ] do
  @tag registry: [meta: [given: "value", list: [1, 2], nothing: nil]]
  test "metadata given at the start is present", %{registry: registry} do
    assert Registry.meta(registry, :given) == {:ok, "value"}
    assert Registry.meta(registry, :list) == {:ok, [1, 2]}
    assert Registry.meta(registry, :nothing) == {:ok, nil}
    assert Registry.meta(registry, :absent) == :error
  end

  # A term whose size is unknown in advance takes another path through the library.
  test "metadata given at the start may be any term", %{options: options} do
    for {about, value} <- Foundation.Terms.all() do
      registry = start_registry(Keyword.put(options, :meta, of_any_kind: value))
      assert {:ok, found} = Registry.meta(registry, :of_any_kind)
      assert found === value, about
      stop_supervised!(registry)
    end
  end

  @tag registry: [meta: [twice: 1, twice: 2]]
  test "metadata given twice has the last value", %{registry: registry} do
    assert Registry.meta(registry, :twice) == {:ok, 2}
  end

  test "metadata is put, replaced and deleted under atoms and tuples", %{registry: registry} do
    for key <- [:atom, {:a, "tuple", 1}, {}, nil, true, {1.0, %{}}, :_, :"$1", {:_}] do
      assert Registry.meta(registry, key) == :error
      assert Registry.put_meta(registry, key, 1) == :ok
      assert Registry.meta(registry, key) == {:ok, 1}
      assert Registry.put_meta(registry, key, %{of: [any: {"kind"}]}) == :ok
      assert Registry.meta(registry, key) == {:ok, %{of: [any: {"kind"}]}}
      assert Registry.delete_meta(registry, key) == :ok
      assert Registry.meta(registry, key) == :error
      assert Registry.delete_meta(registry, key) == :ok
    end
  end

  test "metadata keys are compared by ===", %{registry: registry} do
    :ok = Registry.put_meta(registry, {1}, :integer)
    :ok = Registry.put_meta(registry, {1.0}, :float)
    assert Registry.meta(registry, {1}) == {:ok, :integer}
    assert Registry.meta(registry, {1.0}) == {:ok, :float}
    :ok = Registry.delete_meta(registry, {1})
    assert Registry.meta(registry, {1}) == :error
    assert Registry.meta(registry, {1.0}) == {:ok, :float}
  end

  test "metadata has its own namespace", %{registry: registry} do
    :ok = Registry.put_meta(registry, :key, :meta)
    {:ok, _} = Registry.register(registry, :key, :entry)
    assert Registry.lookup(registry, :key) == [{self(), :entry}]
    :ok = Registry.unregister(registry, :key)
    assert Registry.meta(registry, :key) == {:ok, :meta}
    assert Registry.count(registry) == 0
  end

  test "metadata is set by any process and outlives it", %{registry: registry} do
    worker = start_worker()
    :ok = run(worker, fn -> Registry.put_meta(registry, :from, :worker) end)
    kill(worker)
    assert Registry.meta(registry, :from) == {:ok, :worker}
  end

  test "metadata under keys other than atoms and tuples is refused", %{registry: registry} do
    for key <- ["binary", 1, -1, 1.5, [], %{}, self()] do
      for {name, arity, call} <- [
            {:meta, 2, fn -> Registry.meta(registry, key) end},
            {:put_meta, 3, fn -> Registry.put_meta(registry, key, 1) end},
            {:delete_meta, 2, fn -> Registry.delete_meta(registry, key) end}
          ] do
        message = "no function clause matching in #{inspect(Registry)}.#{name}/#{arity}"
        assert_raise FunctionClauseError, message, call
      end
    end
  end

  test "metadata functions raise for an unknown registry", _context do
    unknown = unique_name("unknown")

    message =
      "unknown registry: #{inspect(unknown)}. Either the registry name is invalid or " <>
        "the registry is not running, possibly because its application isn't started"

    assert_raise ArgumentError, message, fn -> Registry.meta(unknown, :key) end

    message = "unknown registry: #{inspect(unknown)}"
    assert_raise ArgumentError, message, fn -> Registry.put_meta(unknown, :key, 1) end
    assert_raise ArgumentError, message, fn -> Registry.delete_meta(unknown, :key) end
  end
end
