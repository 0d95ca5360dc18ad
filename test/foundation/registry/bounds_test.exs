import Foundation.Conformance.Registry

conformance "Bounds", subjects: :ours, variants: [[keys: :unique], [keys: :duplicate]] do
  @tag registry: [max_entries: 3]
  test "a full registry refuses and counts registrations until an entry is removed", %{
    registry: registry
  } do
    worker = start_worker()
    for key <- 1..2, do: {:ok, _} = Registry.register(registry, key, nil)
    {:ok, _} = Registry.register_for(registry, worker, 3, nil)

    assert_raise SystemLimitError, fn -> Registry.register(registry, 4, nil) end
    assert_raise SystemLimitError, fn -> Registry.register_for(registry, worker, 4, nil) end
    assert %{size: 3, keys: 3, drops: 2} = Registry.info(registry)
    assert Registry.lookup(registry, 4) == []
    assert Registry.keys(registry, worker) == [3]

    :ok = Registry.unregister(registry, 1)
    assert {:ok, _} = Registry.register(registry, 4, nil)
    kill(worker)
    eventually(fn -> Registry.count(registry) == 2 end)
    assert {:ok, _} = Registry.register(registry, 5, nil)
    assert_raise SystemLimitError, fn -> Registry.register(registry, 6, nil) end
    assert %{size: 3, drops: 3} = Registry.info(registry)
  end

  test "memory is freed when the entries are removed, in every round", %{registry: registry} do
    %{memory: empty} = Registry.info(registry)

    [first | _] =
      fulls =
      for _round <- 1..4 do
        for key <- 1..20_000,
            do: {:ok, _} = Registry.register(registry, {:key, key}, %{value: key})

        %{memory: full} = Registry.info(registry)
        for key <- 1..20_000, do: :ok = Registry.unregister(registry, {:key, key})
        full
      end

    # Memory is freed a moment after its entry is removed.
    eventually(fn -> Registry.info(registry).memory < empty + first * 0.1 end)
    assert Enum.max(fulls) < first * 1.1
  end

  test "memory is freed when the processes die", %{registry: registry} do
    %{memory: empty} = Registry.info(registry)
    # Some processes with one key and some with two: the library stores the two cases differently.
    workers = start_workers(10_000)

    for {worker, n} <- Enum.with_index(workers),
        key <- 0..rem(n, 2),
        do: own(registry, worker, {n, key})

    %{memory: full, processes: 10_000} = Registry.info(registry)
    Enum.each(workers, &kill/1)
    eventually(fn -> match?(%{size: 0, processes: 0}, Registry.info(registry)) end)
    eventually(fn -> Registry.info(registry).memory < empty + full * 0.05 end)
  end

  defp own(registry, worker, key),
    do: {:ok, _owner} = Registry.register_for(registry, worker, key, nil)
end

conformance "BoundOfUniqueKeys", subjects: :ours, variants: [[keys: :unique]] do
  @tag registry: [max_entries: 3]
  test "a full registry returns a taken key's owner and replaces a dead one",
       %{registry: registry} do
    worker = start_worker()
    {:ok, _} = Registry.register_for(registry, worker, 1, nil)
    for key <- 2..3, do: {:ok, _} = Registry.register(registry, key, nil)

    assert Registry.register(registry, 1, nil) == {:error, {:already_registered, worker}}
    assert Registry.info(registry).drops == 0

    kill(worker)
    assert {:ok, _} = Registry.register(registry, 1, nil)
    assert Registry.lookup(registry, 1) == [{self(), nil}]
  end
end

# Not async: counts the ETS tables of the VM.
conformance "Leaks",
  subjects: :ours,
  variants: [[keys: :unique], [keys: :duplicate]],
  async: false do
  use Foundation.Alone

  test "a stopped registry leaves no allocation of the library behind",
       %{registry: registry} = context do
    if context.subject == :native do
      alone(fn ->
        before = counts()
        name = unique_name("leaks")
        {:ok, owner} = Registry.start_link([name: name, engine: :native] ++ @variant)
        fill(name)
        assert counts().terms > before.terms

        GenServer.stop(owner)
        eventually(fn -> assert counts() == before end)
      end)
    else
      # The ETS engine allocates only ETS tables, and those end with their registry.
      tables = length(:ets.all())
      :ok = stop_supervised(registry)
      assert length(:ets.all()) < tables
    end
  end

  # Some entries are unregistered, some end with their process, and the others with the table.
  defp fill(name) do
    terms = Foundation.Terms.all()
    for {about, term} <- terms, do: {:ok, _owner} = Registry.register(name, term, about)
    for {about, term} <- terms, do: {:ok, _owner} = Registry.register(name, about, term)
    for {_about, term} <- Enum.take_every(terms, 2), do: Registry.unregister(name, term)

    worker = start_worker()
    run(worker, fn -> for key <- 1..2_000, do: Registry.register(name, %{key => key}, [key]) end)
    kill(worker)
    for {_about, term} <- terms, do: Registry.lookup(name, term)
  end
end
