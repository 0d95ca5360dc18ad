import Foundation.Conformance.Registry

# Each worker has keys of its own and knows their entries. It compares at every step, so a lost
# entry, a stale read or an error shows where it happened.
conformance "OwnerKilledUnderLoad",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate]] do
  alias Foundation.Load

  @readers 4
  @writers 4
  @kills 30

  @tag timeout: 120_000
  test "repeated owner deaths cause no error, no lost entry and no stale read", %{
    registry: registry
  } do
    for key <- 1..500, do: {:ok, _} = Registry.register(registry, {:stays, key}, key)
    :ok = Registry.put_meta(registry, :meta, :stays)
    me = self()

    readers = for _reader <- 1..@readers, do: fn _state -> read(registry, me) end
    writers = for writer <- 1..@writers, do: fn model -> write(registry, writer, model || %{}) end
    load = Load.start(readers ++ writers)

    for kill <- 1..@kills do
      Load.progress(load, 300)
      owner = eventually(fn -> Process.whereis(registry) end)
      kill(owner)
      # Every second successor is killed during its adoption, or right after it.
      if rem(kill, 2) == 0, do: Load.progress(load, 50)
    end

    for model when is_map(model) <- Load.stop(load), do: assert(map_size(model) <= 50)

    # The writers have ended, and their entries are removed.
    eventually(fn -> Registry.count(registry) == 500 end)
    for key <- 1..500, do: assert(Registry.lookup(registry, {:stays, key}) == [{self(), key}])
    assert Registry.meta(registry, :meta) == {:ok, :stays}
    assert length(Registry.keys(registry, self())) == 500
    assert %{size: 500, processes: 1} = Registry.info(registry)
  end

  defp read(registry, owner) do
    key = :rand.uniform(500)
    assert Registry.lookup(registry, {:stays, key}) == [{owner, key}]
    assert Registry.values(registry, {:stays, key}, owner) == [key]
    assert Registry.match(registry, {:stays, key}, :_) == [{owner, key}]
    assert Registry.lookup(registry, {:absent, key}) == []
    assert Registry.count(registry) >= 500
    if key == 1, do: assert(length(Registry.keys(registry, owner)) == 500)
    :read
  end

  defp write(registry, writer, model) do
    key = {:comes_and_goes, writer, :rand.uniform(50)}
    value = :rand.uniform(1_000_000)

    model =
      case model do
        %{^key => value} ->
          assert Registry.lookup(registry, key) == [{self(), value}]
          assert Registry.unregister(registry, key) == :ok
          assert Registry.lookup(registry, key) == []
          Map.delete(model, key)

        %{} ->
          assert Registry.lookup(registry, key) == []
          assert {:ok, _owner} = Registry.register(registry, key, value)
          assert Registry.lookup(registry, key) == [{self(), value}]
          Map.put(model, key, value)
      end

    if rem(value, 20) == 0,
      do: assert(Enum.sort(Registry.keys(registry, self())) == Enum.sort(Map.keys(model)))

    model
  end
end

conformance "StoppedUnderLoad", subjects: :ours do
  test "an orderly stop gives concurrent callers only 'unknown registry'", %{
    registry: registry
  } do
    callers =
      for caller <- 1..6, do: Task.async(fn -> call_until_unknown(registry, caller, 0) end)

    eventually(fn -> Registry.count(registry) > 0 end)
    :ok = stop_supervised(registry)

    for message <- Task.await_many(callers, 30_000),
        do: assert(message == "unknown registry: #{inspect(registry)}")

    start_registry(keys: :unique, name: registry)
    assert Registry.count(registry) == 0
  end

  defp call_until_unknown(registry, caller, round) do
    key = {caller, rem(round, 100)}
    {:ok, _} = Registry.register(registry, key, round)
    _entries = Registry.lookup(registry, key)
    _some = Enum.take(Registry.stream(registry), 1)
    _keys = Registry.select(registry, [{{:"$1", :_, :_}, [], [:"$1"]}])
    :ok = Registry.unregister(registry, key)
    call_until_unknown(registry, caller, round + 1)
  rescue
    error in ArgumentError -> error.message
  end
end
