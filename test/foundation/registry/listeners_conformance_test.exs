import Foundation.Conformance.Registry

conformance "Listeners",
  variants: [
    [keys: :unique],
    [keys: :duplicate],
    [keys: :duplicate, partitions: 4],
    [keys: {:duplicate, :key}, needs: :key_partition]
  ] do
  setup do
    listener = unique_name("listener")
    Process.register(self(), listener)
    %{listened: start_registry(Keyword.put(options(), :listeners, [listener]))}
  end

  test "listeners get registration and unregistration in that order", %{listened: registry} do
    me = self()
    {:ok, _} = Registry.register(registry, "key", {:any, %{value: 1}})
    :ok = Registry.unregister(registry, "key")

    assert messages() == [
             {:register, registry, "key", me, {:any, %{value: 1}}},
             {:unregister, registry, "key", me}
           ]
  end

  test "listeners get the pid of a registering process", %{listened: registry} do
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, "key", 1) end)
    :ok = run(worker, fn -> Registry.unregister(registry, "key") end)

    assert messages() == [
             {:register, registry, "key", worker, 1},
             {:unregister, registry, "key", worker}
           ]
  end

  test "listeners get no message for a process's death", %{listened: registry} do
    worker = start_worker()
    {:ok, _} = run(worker, fn -> Registry.register(registry, "key", 1) end)
    kill(worker)
    eventually(fn -> Registry.count(registry) == 0 end)
    # This registration follows the clean-up, so a message about the death would come before its
    # own.
    {:ok, _} = Registry.register(registry, "key", 2)

    assert messages() == [
             {:register, registry, "key", worker, 1},
             {:register, registry, "key", self(), 2}
           ]
  end

  test "listeners get a message for the unregistration of an absent key", %{listened: registry} do
    :ok = Registry.unregister(registry, "absent")
    :ok = Registry.unregister_match(registry, "absent", :_)
    :ok = Registry.unregister_match(registry, "absent", :_, [])

    assert messages() == List.duplicate({:unregister, registry, "absent", self()}, 3)
  end

  test "listeners get one message for an unregistration of many entries", %{listened: registry} do
    {:ok, _} = Registry.register(registry, "key", 1)
    if options()[:keys] != :unique, do: {:ok, _} = Registry.register(registry, "key", 2)
    _registrations = messages()
    :ok = Registry.unregister(registry, "key")
    assert messages() == [{:unregister, registry, "key", self()}]
  end

  test "listeners get a message for unregister_match/3 only when no entry of the process is left",
       %{
         listened: registry
       } do
    {:ok, _} = Registry.register(registry, "key", {1, :a})
    _registration = messages()

    :ok = Registry.unregister_match(registry, "key", {2, :_})
    assert messages() == []
    :ok = Registry.unregister_match(registry, "key", {1, :_})
    assert messages() == [{:unregister, registry, "key", self()}]
  end

  test "listeners get no message for a failed call or a changed value", %{listened: registry} do
    if options()[:keys] == :unique do
      {:ok, _} = Registry.register(registry, "key", 1)
      _registration = messages()
      {:error, _} = Registry.register(registry, "key", 2)
      {3, 1} = Registry.update_value(registry, "key", fn 1 -> 3 end)
      :error = Registry.update_value(registry, "absent", & &1)
    else
      assert_raise ArgumentError, fn -> Registry.update_value(registry, "key", & &1) end
    end

    :ok = Registry.put_meta(registry, :some, :meta)
    assert messages() == []
  end

  test "listeners keep the order of each registrant", %{listened: registry} do
    workers = start_workers(8)

    workers
    |> Enum.map(fn worker ->
      Task.async(fn ->
        run(worker, fn ->
          for index <- 1..100 do
            {:ok, _} = Registry.register(registry, {worker, index}, index)
            :ok = Registry.unregister(registry, {worker, index})
          end
        end)
      end)
    end)
    |> Task.await_many(30_000)

    heard = messages()
    assert length(heard) == 8 * 200

    for worker <- workers do
      expected =
        Enum.flat_map(1..100, fn index ->
          [
            {:register, registry, {worker, index}, worker, index},
            {:unregister, registry, {worker, index}, worker}
          ]
        end)

      assert Enum.filter(heard, &(elem(&1, 3) == worker)) == expected
    end
  end

  test "listeners get their message before register/3 returns", %{listened: registry} do
    {:ok, _} = Registry.register(registry, "key", 1)
    assert_received {:register, ^registry, "key", _, 1}
    :ok = Registry.unregister(registry, "key")
    assert_received {:unregister, ^registry, "key", _}
  end

  test "listeners: each of several gets every message", %{options: options} do
    names = for index <- 1..3, do: unique_name("listener_#{index}")
    parent = self()

    for name <- names do
      listener =
        spawn_link(fn ->
          Process.register(self(), name)
          send(parent, {:ready, name})
          forward(parent, name)
        end)

      assert_receive {:ready, ^name}
      assert Process.whereis(name) == listener
    end

    registry = start_registry(Keyword.put(options, :listeners, names))
    {:ok, _} = Registry.register(registry, "key", 1)
    me = self()
    for name <- names, do: assert_receive({:heard, ^name, {:register, ^registry, "key", ^me, 1}})
  end

  test "listeners that are not running make register/3 raise", %{options: options} do
    registry = start_registry(Keyword.put(options, :listeners, [unique_name("nobody")]))
    assert_raise ArgumentError, fn -> Registry.register(registry, "key", 1) end
    assert_raise ArgumentError, fn -> Registry.unregister(registry, "absent") end
  end

  def options, do: Keyword.take(@variant, [:keys, :partitions])

  defp forward(parent, name) do
    receive do
      message -> send(parent, {:heard, name, message})
    end

    forward(parent, name)
  end

  defp messages do
    receive do
      message -> [message | messages()]
    after
      0 -> []
    end
  end
end

conformance "ListenersOfDuplicates", variants: [[keys: :duplicate]] do
  test "listeners get no message for an unregister_match/3 that leaves entries" do
    listener = unique_name("listener")
    Process.register(self(), listener)
    registry = start_registry(keys: :duplicate, listeners: [listener])
    for value <- 1..3, do: {:ok, _} = Registry.register(registry, "key", value)
    for value <- 1..3, do: assert_received({:register, ^registry, "key", _, ^value})

    :ok = Registry.unregister_match(registry, "key", 1)
    refute_received {:unregister, _, _, _}
    :ok = Registry.unregister_match(registry, "key", :"$1", [{:>, :"$1", 1}])
    assert_received {:unregister, ^registry, "key", _}
    refute_received {:unregister, _, _, _}
  end
end
