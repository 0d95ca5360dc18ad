defmodule Soak.Registry.Entries do
  @moduledoc false
  # The model: the registered entries, by registry, key and slot.

  @table __MODULE__

  def open do
    @table = :ets.new(@table, [:named_table, :public, :ordered_set, write_concurrency: true])
  end

  @doc "A key of a slot, a term of any type. Some slots share duplicate keys."
  def key(Soak.Duplicate, slot, index), do: shape(rem(index, 7), {rem(slot, 4), index})
  def key(_unique, slot, index), do: shape(rem(index, 7), {slot, index})

  defp shape(0, {slot, index}), do: slot * 1_000 + index
  defp shape(1, {slot, index}), do: "key-#{slot}-#{index}"
  defp shape(2, pair), do: {:agent, pair, "a longer one, which does not fit into a slot"}
  defp shape(3, {slot, index}), do: %{slot: slot, index: index}
  defp shape(4, {slot, index}), do: [slot, index | :improper]
  defp shape(5, {slot, index}), do: slot + index / 1_000
  defp shape(6, {slot, index}), do: Bitwise.bsl(slot, 100) + index

  @doc "A value that names its process and its key."
  def value(key) do
    {self(), key, :erlang.unique_integer([:positive]),
     case :rand.uniform(4) do
       1 -> nil
       2 -> :binary.copy("v", 200)
       3 -> %{list: Enum.to_list(1..20)}
       4 -> {1.5, "short"}
     end}
  end

  def fits?({pid, key, number, _padding}, pid, key) when is_integer(number), do: true
  def fits?(_value, _pid, _key), do: false

  # The slot comes from the row. For a unique key it is the key's own.
  def put(registry, key, slot, value, epoch),
    do: :ets.insert(@table, {{slot, registry, key}, self(), value, epoch})

  def delete(registry, key, slot), do: :ets.delete(@table, {slot, registry, key})

  def get(registry, key, slot) do
    case :ets.lookup(@table, {slot, registry, key}) do
      [{_key, pid, value, epoch}] -> {pid, value, epoch}
      [] -> nil
    end
  end

  @doc "Deletes the rows of the earlier process of this slot, which is dead."
  def forget(slot), do: :ets.match_delete(@table, {{slot, :_, :_}, :_, :_, :_})

  def of(pid),
    do: for([r, k] <- :ets.match(@table, {{:_, :"$1", :"$2"}, pid, :_, :_}), do: {r, k})

  def alive(registry, epoch) do
    for [key, pid, value] <- :ets.match(@table, {{:_, registry, :"$1"}, :"$2", :"$3", epoch}),
        Process.alive?(pid),
        do: {key, pid, value}
  end
end
