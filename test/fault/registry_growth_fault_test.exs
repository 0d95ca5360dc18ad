import Foundation.Conformance.Registry

# The table grows and shrinks by a factor of a thousand under its readers. At every moment a read
# must find the entries that stay.
conformance "GrowthUnderLoad",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate]] do
  alias Foundation.Load

  @rounds 2
  @entries 10_000

  @tag timeout: 120_000
  test "lookups find present keys and no removed ones while the table grows and shrinks", %{
    registry: registry
  } do
    stays = stays()
    for {key, value} <- stays, do: {:ok, _} = Registry.register(registry, key, value)
    me = self()
    load = Load.start(for _reader <- 1..3, do: fn _state -> read(registry, me, stays) end)

    writers =
      for writer <- 1..2 do
        Task.async(fn ->
          for round <- 1..@rounds, do: grow_and_shrink(registry, writer, round)
          :grown_and_shrunk
        end)
      end

    assert Task.await_many(writers, 90_000) == [:grown_and_shrunk, :grown_and_shrunk]
    Load.stop(load)

    for {key, value} <- stays, do: assert(Registry.lookup(registry, key) == [{me, value}])
    eventually(fn -> Registry.count(registry) == length(stays) end)
    assert Enum.count(Registry.stream(registry)) == length(stays)
  end

  # Keys and values of three kinds: one word, bytes, and terms in an environment of their own.
  defp stays do
    for index <- 1..60,
        {kind, value} <- [
          {index, index},
          {"binary #{index}", "value #{index}"},
          {{:tuple, index, ["of", index]}, %{index => :binary.copy("v", 100)}},
          {%{map: index}, {index, self()}},
          {2 ** 70 + index, fn -> index end}
        ],
        do: {{:stays, kind}, value}
  end

  defp read(registry, owner, stays) do
    {key, value} = Enum.random(stays)
    assert Registry.lookup(registry, key) == [{owner, value}]
    assert Registry.lookup(registry, {:absent, key}) == []

    sample = Enum.take_random(stays, 20)

    assert Registry.lookup_many(registry, Enum.map(sample, &elem(&1, 0))) ==
             for({_key, value} <- sample, do: [{owner, value}])
  end

  defp grow_and_shrink(registry, writer, round) do
    key = fn index -> {:passes, writer, if(rem(index, 2) == 0, do: index, else: "#{index}")} end

    for index <- 1..@entries,
        do: {:ok, _} = Registry.register(registry, key.(index), {round, index})

    for index <- 1..@entries//97,
        do: assert(Registry.lookup(registry, key.(index)) == [{self(), {round, index}}])

    for index <- 1..@entries, do: :ok = Registry.unregister(registry, key.(index))

    for index <- 1..@entries//97, do: assert(Registry.lookup(registry, key.(index)) == [])
  end
end
