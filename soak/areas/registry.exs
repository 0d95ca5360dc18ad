defmodule Soak.Registry do
  @moduledoc false
  # Three registries. The ones with unique and with duplicate keys lose their owner and their
  # supervisor again and again, and must keep every entry. The third is also stopped in order, and
  # loses all entries each time.
  #
  # Registrants can be killed at any time. They register and unregister keys of their own, and keep
  # a row in the model for each entry. A row is written after the registration and deleted before
  # the entry is unregistered. So a read must find the entry of a row that exists before and after
  # the read, if the registrant is alive after it.

  @behaviour Soak.Area

  alias Foundation.Registry
  alias Soak.{Crew, Epoch, Faults, Record}
  alias Soak.Registry.{Entries, Reads, Tree}

  import Foundation.Eventually

  @registries [Soak.Unique, Soak.Duplicate, Soak.Stopped]
  @supervisor Soak.Registry.Tree
  @meta [soak: :kept]

  @slots 24
  @keys 24
  @contended 4
  @crowd 1_000
  @large 5_000

  @impl true
  def name, do: "registry"

  @impl true
  def invariants do
    [
      lost: "entries lost",
      stale: "stale reads",
      wrong: "wrong values",
      twice: "unique keys with two holders",
      refused: "keys that a dead process kept",
      meta: "metadata lost",
      again: "values and metadata not as they were stored again",
      left: "entries left of the dead"
    ]
  end

  @impl true
  def open(options) do
    Epoch.open(@registries)
    Entries.open()
    :persistent_term.put({__MODULE__, :contended}, :atomics.new(@contended, []))
    {:ok, _pid} = Tree.start_link(options.engine, @meta)
  end

  @impl true
  def crew do
    [
      %{count: @slots, init: &registrant/1, step: &register_or_unregister/1, mortal?: true},
      %{count: 4, init: & &1, step: &read/1},
      %{count: 2, init: & &1, step: &contend/1},
      %{count: 1, init: & &1, step: &kill_registrant/1},
      %{count: 1, init: & &1, step: &exchange/1},
      %{count: 1, init: &registrant_again/1, step: &store_again/1}
    ]
  end

  @impl true
  def faults(engine) do
    owners =
      for name <- @registries, do: {"registry owner killed", 2, fn -> Faults.kill(name) end}

    servers =
      for name <- Foundation.RegistrySupervisor.processes() -- unless_native(engine),
          do: {"#{inspect(name)} killed", 2, fn -> Faults.kill(name) end}

    owners ++
      servers ++
      [
        {"registries' supervisor killed", 2, &kill_supervisor/0},
        {"registry stopped in order", 3,
         fn -> Faults.restart(@supervisor, Soak.Stopped, [Soak.Stopped]) end},
        {"registrant killed", 10, &kill_registrant/0},
        {"#{@crowd} registrants killed at once", 1, &kill_crowd/0},
        {"registrant of #{@large} keys killed", 1, &kill_large/0},
        {"node killed", 1, fn -> Soak.Peers.kill() end},
        {"node disconnected, and back", 1, fn -> Soak.Peers.disconnect() end}
      ]
  end

  # The holder of the ETS tables and the owner of a table must not die together, and the faults do
  # not always wait until all processes are up.
  defp unless_native(:native), do: []
  defp unless_native(:ets), do: [Foundation.Registry.TableHolder]

  ## Registrants

  defp registrant(slot) do
    Entries.forget(slot)
    %{slot: slot, own: %{}, epochs: %{}}
  end

  defp register_or_unregister(state) do
    registry = Enum.random(@registries)
    index = :rand.uniform(@keys)

    case Epoch.judge(registry, &change(registry, index, &1, state)) do
      {:ok, state} -> {1, state}
      :unjudged -> {0, settle(registry, index, state)}
    end
  end

  defp change(registry, index, epoch, state) do
    state = if state.epochs[registry] in [nil, epoch], do: state, else: drop(registry, state)
    state = put_in(state.epochs[registry], epoch)
    own = {registry, index}
    key = Entries.key(registry, state.slot, index)

    case state.own do
      %{^own => _value} ->
        Entries.delete(registry, key, state.slot)
        :ok = Registry.unregister(registry, key)
        %{state | own: Map.delete(state.own, own)}

      %{} ->
        value = Entries.value(key)
        result = Registry.register(registry, key, value)
        # Only the earlier processes of this slot had this key, and they are dead.
        Record.check!(:refused, match?({:ok, _owner}, result), fn -> {registry, key, result} end)
        Entries.put(registry, key, state.slot, value, epoch)
        %{state | own: Map.put(state.own, own, value)}
    end
  end

  # The change may have happened in the epoch that ended or in the one that began.
  defp settle(registry, index, state) do
    key = Entries.key(registry, state.slot, index)

    case Epoch.judge(registry, fn _epoch -> Registry.unregister(registry, key) end) do
      {:ok, :ok} -> drop(registry, state)
      :unjudged -> settle(registry, index, state)
    end
  end

  # The registry was stopped, so all its entries are gone.
  defp drop(registry, state) do
    for {^registry, index} <- Map.keys(state.own),
        do: Entries.delete(registry, Entries.key(registry, state.slot, index), state.slot)

    own = Map.reject(state.own, fn {{of, _index}, _value} -> of == registry end)
    %{state | own: own, epochs: Map.delete(state.epochs, registry)}
  end

  ## Readers

  defp read(index) do
    registry = Enum.random(@registries)
    slot = :rand.uniform(@slots)
    key = Entries.key(registry, slot, :rand.uniform(@keys))

    _judged =
      Epoch.judge(registry, fn epoch ->
        row = Entries.get(registry, key, slot)
        how = Reads.any(registry)
        found = Reads.run(how, registry, key, row)
        judge_found(found, registry, {key, slot}, row, epoch)
        judge_stale(found, how, registry, key, row)
        meta = Registry.meta(registry, :soak)
        Record.check!(:meta, meta == {:ok, @meta[:soak]}, fn -> {registry, meta} end)
      end)

    {2, index}
  end

  defp judge_found(found, registry, {key, slot}, {pid, value, epoch} = row, epoch) do
    if Enum.any?(found, &(&1 in [{pid, value}, {pid, Reads.no_value()}])) do
      Record.check!(:lost, true, fn -> nil end)
    else
      lost? = Entries.get(registry, key, slot) == row and Process.alive?(pid)
      if lost?, do: Record.check!(:lost, false, fn -> {registry, key, row, found} end)
    end

    judge_values(found, key)
  end

  # The entry is missing, or it is of another epoch.
  defp judge_found(found, _registry, {key, _slot}, _row, _epoch), do: judge_values(found, key)

  defp judge_values(found, key) do
    for {pid, value} <- found, value != Reads.no_value() do
      Record.check!(:wrong, Entries.fits?(value, pid, key), fn -> {key, pid, value} end)
    end
  end

  # A process that is dead now may have been alive at the read. A second read must not return it.
  defp judge_stale(found, how, registry, key, row) do
    case for {pid, _value} <- found, not Process.alive?(pid), do: pid do
      [] ->
        Record.check!(:stale, true, fn -> nil end)

      dead ->
        again = for {pid, _value} <- Reads.run(how, registry, key, row), do: pid
        risen = for pid <- dead, pid in again, do: pid
        Record.check!(:stale, risen == [], fn -> {how, registry, key, risen} end)
    end
  end

  ## Whoever is first has the key

  defp contend(index) do
    key = :rand.uniform(@contended)
    holders = :persistent_term.get({__MODULE__, :contended})

    case Registry.register(Soak.Unique, {:contended, key}, Entries.value({:contended, key})) do
      {:ok, _owner} ->
        count = :atomics.add_get(holders, key, 1)
        found = Registry.whereis_name({Soak.Unique, {:contended, key}})
        :atomics.sub(holders, key, 1)
        :ok = Registry.unregister(Soak.Unique, {:contended, key})
        Record.check!(:twice, count == 1 and found == self(), fn -> {key, count, found} end)

      {:error, {:already_registered, pid}} ->
        Record.check!(:twice, pid != self(), fn -> {key, pid} end)
    end

    {1, index}
  end

  # A key that passes from one process to the next as they die.
  defp exchange(index) do
    me = self()

    heir =
      spawn(fn ->
        {:ok, _owner} = Registry.register(Soak.Unique, :exchanged, Entries.value(:exchanged))
        send(me, {:registered, self()})
        Process.sleep(:infinity)
      end)

    ref = Process.monitor(heir)

    receive do
      {:registered, ^heir} -> Process.exit(heir, :kill)
      {:DOWN, ^ref, _, _, reason} -> Record.check!(:refused, false, fn -> reason end)
    end

    spin_until_dead(heir)
    found = Registry.lookup(Soak.Unique, :exchanged)
    Record.check!(:stale, found == [], fn -> {heir, found} end)
    Process.demonitor(ref, [:flush])
    {3, index}
  end

  ## Values that are read and stored again

  @again :again

  defp registrant_again(_index) do
    Entries.forget(@again)
    value = {Entries.value(@again), :binary.copy("b", 10_000)}
    {:ok, _owner} = Registry.register(Soak.Unique, @again, value)
    :ok = Registry.put_meta(Soak.Unique, @again, value)
    Entries.put(Soak.Unique, @again, @again, value, Epoch.now(Soak.Unique))
    value
  end

  defp store_again(value) do
    updated = Registry.update_value(Soak.Unique, @again, & &1)
    Record.check!(:again, updated == {value, value}, fn -> updated end)
    {:ok, meta} = Registry.meta(Soak.Unique, @again)
    :ok = Registry.put_meta(Soak.Unique, @again, meta)
    Record.check!(:again, meta == value, fn -> meta end)
    {2, value}
  end

  ## Deaths

  defp kill_registrant(index) do
    Process.sleep(:rand.uniform(10))

    with pid when is_pid(pid) <- Crew.victim(__MODULE__) do
      rows = Entries.of(pid)
      Process.exit(pid, :kill)
      spin_until_dead(pid)
      for {registry, key} <- rows, do: gone(registry, key, pid)
      Record.fault("registrant killed")
    end

    {1, index}
  end

  defp gone(registry, key, pid) do
    Epoch.judge(registry, fn _epoch ->
      for how <- Reads.all(registry) do
        found = Reads.run(how, registry, key, {pid, nil, nil})

        Record.check!(:stale, not List.keymember?(found, pid, 0), fn ->
          {how, registry, key, pid}
        end)
      end
    end)
  end

  # Readers promise to agree with `Process.alive?/1`. A monitor's message comes later.
  defp spin_until_dead(pid), do: if(Process.alive?(pid), do: spin_until_dead(pid), else: :ok)

  defp kill_registrant do
    with pid when is_pid(pid) <- Crew.victim(__MODULE__), do: Process.exit(pid, :kill)
  end

  defp kill_supervisor do
    owners = for name <- @registries, do: {name, Faults.await(name)}
    Faults.kill(@supervisor)
    for {name, owner} <- owners, do: Faults.await(name, owner)
  end

  defp kill_crowd do
    me = self()

    crowd =
      for n <- 1..@crowd do
        spawn(fn ->
          for registry <- [Soak.Unique, Soak.Duplicate] do
            key = if registry == Soak.Unique, do: {:crowd, n}, else: :crowd
            {:ok, _owner} = Registry.register(registry, key, Entries.value(key))
          end

          send(me, {:registered, self()})
          Process.sleep(:infinity)
        end)
      end

    for pid <- crowd, do: receive(do: ({:registered, ^pid} -> :ok))
    count = length(Registry.lookup(Soak.Duplicate, :crowd))
    Record.check!(:lost, count == @crowd, fn -> {:crowd, count} end)
    for pid <- crowd, do: Process.exit(pid, :kill)
    for pid <- crowd, do: spin_until_dead(pid)
    found = Registry.lookup(Soak.Duplicate, :crowd)
    Record.check!(:stale, found == [], fn -> {:crowd, length(found)} end)
    found = Registry.lookup_many(Soak.Unique, for(n <- 1..@crowd, do: {:crowd, n}))
    Record.check!(:stale, Enum.all?(found, &(&1 == [])), fn -> {:crowd, found} end)
  end

  defp kill_large do
    me = self()

    pid =
      spawn(fn ->
        for n <- 1..@large, registry <- [Soak.Unique, Soak.Duplicate] do
          {:ok, _owner} = Registry.register(registry, {:large, n}, Entries.value({:large, n}))
        end

        send(me, :registered)
        Process.sleep(:infinity)
      end)

    receive do
      :registered -> :ok
    end

    for registry <- [Soak.Unique, Soak.Duplicate] do
      count = length(Registry.keys(registry, pid))
      Record.check!(:lost, count == @large, fn -> {:large, registry, count} end)
    end

    Process.exit(pid, :kill)
    spin_until_dead(pid)

    for registry <- [Soak.Unique, Soak.Duplicate] do
      found = [
        Registry.keys(registry, pid),
        Registry.lookup(registry, {:large, :rand.uniform(@large)})
      ]

      Record.check!(:stale, found == [[], []], fn -> {:large, registry, found} end)
    end
  end

  ## Audit

  @impl true
  def audit do
    for registry <- @registries do
      Faults.await(registry)
      expected = Enum.sort(Entries.alive(registry, Epoch.now(registry)))

      try do
        eventually(fn -> Registry.count(registry) == length(expected) end, 10_000)
      rescue
        _not_in_time in ExUnit.AssertionError -> :ok
      end

      count = Registry.count(registry)
      info = Registry.info(registry)

      Record.check!(:left, count <= length(expected), fn ->
        {registry, count, length(expected)}
      end)

      Record.check!(:lost, count >= length(expected), fn ->
        {registry, count, length(expected)}
      end)

      Record.check!(:left, info.size == count, fn -> {registry, count, info} end)

      visited = registry |> Registry.stream() |> Enum.sort()
      Record.check!(:lost, expected -- visited == [], fn -> {registry, expected -- visited} end)
      Record.check!(:left, visited -- expected == [], fn -> {registry, visited -- expected} end)
    end
  end
end
