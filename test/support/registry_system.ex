defmodule Foundation.RegistrySystem do
  @moduledoc """
  A running registry with its registrants in slots, to compare with `Foundation.RegistryModel`.

  A slot's worker runs one function at a time, and the order to die waits in the same queue. So a
  command either ran on it, with a known result, or found a dead worker and did nothing (`:died`). A
  death never falls into a command, and the model stays sequential.
  """

  import ExUnit.Assertions
  import Foundation.Case, only: [start_worker: 0, run: 2, run_in_mortal: 2]
  import Foundation.Eventually

  alias Foundation.{Registry, RegistryModel}

  @doc "Starts workers for a running registry."
  def start(registry, slots) do
    # Workers end with their parent. The processes that run commands may end earlier.
    keeper = start_worker()
    system = %{registry: registry, keeper: keeper, slots: :ets.new(:slots, [:public])}
    for slot <- 1..slots, do: occupy(system, slot, 1)
    system
  end

  def stop(%{keeper: keeper, slots: slots}) do
    Foundation.Case.kill(keeper)
    :ets.delete(slots)
  end

  def register(system, slot, key, value) do
    in_slot(system, slot, fn ->
      case Registry.register(system.registry, key, value) do
        {:ok, owner} when is_pid(owner) -> :ok
        {:error, {:already_registered, pid}} -> {:error, {:already_registered, name(system, pid)}}
      end
    end)
  end

  @doc """
  Returns `{:ok_of_dead, generation}` if the process was dead right after it registered.
  """
  def register_for(system, slot, key, value) do
    [{_slot, pid, generation}] = :ets.lookup(system.slots, {:slot, slot})

    case Registry.register_for(system.registry, pid, key, value) do
      {:ok, owner} when is_pid(owner) ->
        if Process.alive?(pid), do: :ok, else: {:ok_of_dead, generation}

      {:error, {:already_registered, pid}} ->
        {:error, {:already_registered, name(system, pid)}}

      {:error, :not_alive} ->
        :died
    end
  end

  def unregister(system, slot, key),
    do: in_slot(system, slot, fn -> Registry.unregister(system.registry, key) end)

  def unregister_for(system, slot, key),
    do: Registry.unregister_for(system.registry, pid(system, slot), key)

  def unregister_value(system, slot, key, value),
    do: in_slot(system, slot, fn -> Registry.unregister_match(system.registry, key, value) end)

  def update_value(system, slot, key, fun),
    do: in_slot(system, slot, fn -> Registry.update_value(system.registry, key, fun) end)

  def lookup(system, key), do: named(system, Registry.lookup(system.registry, key))

  def lookup_many(system, keys),
    do: for(entries <- Registry.lookup_many(system.registry, keys), do: named(system, entries))

  def match(system, key, pattern),
    do: named(system, Registry.match(system.registry, key, pattern))

  def keys(system, slot), do: Registry.keys(system.registry, pid(system, slot))

  def values(system, key, slot), do: Registry.values(system.registry, key, pid(system, slot))

  def select(system) do
    all = [{{:"$1", :"$2", :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}]

    for {key, pid, value} <- Registry.select(system.registry, all),
        do: {key, name(system, pid), value}
  end

  def stream(system),
    do:
      for(
        {key, pid, value} <- Registry.stream(system.registry),
        do: {key, name(system, pid), value}
      )

  @doc "Kills the slot's process. Returns when it is dead and another has taken its place."
  def kill(system, slot) do
    [{{:slot, ^slot}, pid, generation}] = :ets.lookup(system.slots, {:slot, slot})
    ref = Process.monitor(pid)
    killer = self()

    last = fn ->
      send(killer, {ref, :dying})
      Process.exit(self(), :kill)
    end

    send(pid, {:run, killer, ref, last})

    # Two commands may order the same death. One of them caused it.
    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} ->
        receive do
          {^ref, :dying} ->
            occupy(system, slot, generation + 1)
            :ok
        after
          0 -> :died
        end
    end
  end

  @doc "Kills the registry's owner. Its supervisor restarts it later."
  def kill_owner(system) do
    if owner = Process.whereis(system.registry), do: Process.exit(owner, :kill)
    :ok
  end

  @doc "Fails unless the registry and the model have the same entries, once the clean-up is done."
  def assert_equal(system, model) do
    %{size: size} = figures = RegistryModel.figures(model)
    eventually(fn -> assert Registry.count(system.registry) == size end)

    eventually(fn ->
      assert Map.take(Registry.info(system.registry), [:size, :keys, :processes]) == figures
    end)

    assert Enum.sort(select(system)) == Enum.sort(model.entries)
    assert Enum.sort(stream(system)) == Enum.sort(model.entries)

    for {key, _who, _value} <- model.entries,
        do: assert(lookup(system, key) == RegistryModel.lookup(model, key))

    for {slot, _generation} <- model.generations,
        do: assert(Enum.sort(keys(system, slot)) == Enum.sort(RegistryModel.keys(model, slot)))

    true
  end

  defp occupy(system, slot, generation) do
    worker = run(system.keeper, fn -> start_worker() end)
    # Named before any lookup can find it, so every pid in an answer has a name.
    :ets.insert(system.slots, {{:pid, worker}, {slot, generation}})
    :ets.insert(system.slots, {{:slot, slot}, worker, generation})
  end

  defp in_slot(system, slot, fun) do
    case run_in_mortal(pid(system, slot), fun) do
      {:returned, result} -> result
      {:ended, _reason} -> :died
    end
  end

  defp pid(system, slot), do: :ets.lookup_element(system.slots, {:slot, slot}, 2)
  defp name(system, pid), do: :ets.lookup_element(system.slots, {:pid, pid}, 2)
  defp named(system, entries), do: for({pid, value} <- entries, do: {name(system, pid), value})
end
