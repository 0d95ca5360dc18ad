import Foundation.Conformance.Registry

# A term that is too large to copy on a normal scheduler takes another path through the library.
conformance "HeavyTerms",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate], [keys: {:duplicate, :key}]] do
  test "heavy terms as values are returned by every function", %{registry: registry} do
    heavy = Enum.to_list(1..20_000)
    {:ok, _} = Registry.register(registry, :key, heavy)

    assert Registry.lookup(registry, :key) == [{self(), heavy}]
    assert Registry.values(registry, :key, self()) == [heavy]
    assert Registry.match(registry, :key, :_) == [{self(), heavy}]
    assert Registry.match(registry, :key, [1 | :_]) == [{self(), heavy}]
    assert Registry.count_match(registry, :key, :_) == 1
    assert Registry.select(registry, [{{:key, :_, :"$1"}, [], [:"$1"]}]) == [heavy]
    assert Enum.to_list(Registry.stream(registry)) == [{:key, self(), heavy}]
    assert Registry.lookup_many(registry, [:absent, :key]) == [[], [{self(), heavy}]]
    assert :ok = Registry.unregister_match(registry, :key, heavy)
    assert Registry.lookup(registry, :key) == []
  end

  test "heavy terms work as keys", %{registry: registry} do
    keys = for index <- 1..3, do: Enum.to_list(index..20_000)
    for key <- keys, do: {:ok, _} = Registry.register(registry, key, length(key))

    assert Enum.sort(Registry.keys(registry, self())) == Enum.sort(keys)
    for key <- keys, do: assert(Registry.match(registry, key, :_) == [{self(), length(key)}])
    assert Registry.lookup_many(registry, keys) == Enum.map(keys, &[{self(), length(&1)}])
  end

  test "heavy terms work as metadata given at the start", %{options: options} do
    name = unique_name("heavy_meta")
    heavy = Enum.to_list(1..20_000)
    options = Keyword.merge(options, name: name, meta: [heavy: heavy, light: 1])

    start_supervised!({Registry, options})
    assert Registry.meta(name, :heavy) == {:ok, heavy}
    assert Registry.meta(name, :light) == {:ok, 1}
  end
end
