defmodule Foundation.CacheModel do
  @moduledoc """
  A model of `Foundation.Cache` as a plain value: the oracle of the state-machine tests.

  Nothing expires by time in it, and nothing is evicted. Errors are kept. A *slot* stands for a
  process that may fetch. It is `:idle`, `{:loads, key, lease?}` with its waiting slots, or
  `:waits`.
  """

  defstruct entries: %{}, slots: %{}, queues: %{}, counts: %{}

  @counted [:hits, :misses, :loads, :load_errors, :rejected]

  def new(slots) do
    %__MODULE__{
      slots: Map.new(1..slots, &{&1, :idle}),
      queues: Map.new(1..slots, &{&1, []}),
      counts: Map.new(@counted, &{&1, 0})
    }
  end

  ## Reads and writes

  def get(model, key) do
    case model.entries do
      %{^key => {:ok, value}} -> {{:ok, value}, count(model, :hits)}
      %{} -> {:error, count(model, :misses)}
    end
  end

  @doc "A fetch whose loader returns at once."
  def fetch(model, key, outcome) do
    case model.entries do
      %{^key => kept} ->
        {kept, count(model, :hits)}

      %{} ->
        model = model |> count(:misses) |> loaded(outcome)
        {answer(outcome), store(model, key, outcome)}
    end
  end

  def put(model, key, :large), do: {:ok, model |> detach(key) |> store(key, {:ok, :large})}
  def put(model, key, value), do: {:ok, model |> detach(key) |> store(key, {:ok, value})}

  def delete(model, key),
    do: {:ok, %{detach(model, key) | entries: Map.delete(model.entries, key)}}

  def clear(model) do
    model = Enum.reduce(Map.values(model.slots), model, &detach_loading/2)
    {:ok, %{model | entries: %{}}}
  end

  def stats(model), do: Map.put(model.counts, :entries, map_size(model.entries))

  ## Slots

  @doc "What a slot that fetches will do: `{:fetched, kept}`, `:loads` or `{:waits, loader}`."
  def expected(model, key) do
    case {model.entries, loader(model, key)} do
      {%{^key => kept}, _loader} -> {:fetched, kept}
      {%{}, nil} -> :loads
      {%{}, loader} -> {:waits, loader}
    end
  end

  def start(model, slot, key) do
    case expected(model, key) do
      {:fetched, kept} -> {{:fetched, kept}, count(model, :hits)}
      :loads -> {:loads, model |> count(:misses) |> begin(slot, key)}
      {:waits, loader} -> {:waits, model |> count(:misses) |> wait(slot, loader)}
    end
  end

  defp begin(model, slot, key), do: put_in(model.slots[slot], {:loads, key, true})

  defp wait(model, slot, loader) do
    model = put_in(model.slots[slot], :waits)
    update_in(model.queues[loader], &(&1 ++ [slot]))
  end

  @doc "A loading slot's loader returns. The answers of the slots that this ends."
  def finish(model, slot, outcome) do
    {:loads, key, lease?} = model.slots[slot]
    ended = [slot | model.queues[slot]]
    model = model |> loaded(outcome) |> idle(ended)
    model = if lease?, do: store(model, key, outcome), else: model
    {for(slot <- ended, do: {slot, answer(outcome)}), model}
  end

  @doc """
  Returns whether it can be known what happens when a slot is killed. Callers that wait for a load
  whose lease has ended fetch again: several of them race, and one that waits again does not say so.
  """
  def killable?(model, slot) do
    case {model.slots[slot], model.queues[slot]} do
      {:idle, _queue} -> false
      {{:loads, key, false}, [_next]} -> not match?({:waits, _}, expected(model, key))
      {{:loads, _key, false}, [_next | _others]} -> false
      {_loads_or_waits, _queue} -> true
    end
  end

  @doc "A slot is killed: `nil`, or what the slot does that waited for it."
  def kill(model, slot) do
    case {model.slots[slot], model.queues[slot]} do
      {:waits, []} ->
        queues = Map.new(model.queues, fn {loader, queue} -> {loader, queue -- [slot]} end)
        {nil, idle(%{model | queues: queues}, [slot])}

      {{:loads, _key, _lease?}, []} ->
        {nil, idle(model, [slot])}

      {{:loads, key, true}, [next | others]} ->
        model = model |> idle([slot, next]) |> begin(next, key)
        {{next, :loads}, put_in(model.queues[next], others)}

      {{:loads, key, false}, [next]} ->
        model = idle(model, [slot, next])

        case expected(model, key) do
          {:fetched, kept} -> {{next, {:fetched, kept}}, model}
          :loads -> {{next, :loads}, begin(model, next, key)}
        end
    end
  end

  defp idle(model, slots) do
    slots
    |> Enum.reduce(model, &put_in(&2.slots[&1], :idle))
    |> then(&Enum.reduce(slots, &1, fn slot, model -> put_in(model.queues[slot], []) end))
  end

  defp loader(model, key) do
    Enum.find_value(model.slots, fn
      {slot, {:loads, ^key, true}} -> slot
      _other -> nil
    end)
  end

  defp detach(model, key) do
    case loader(model, key) do
      nil -> model
      slot -> put_in(model.slots[slot], {:loads, key, false})
    end
  end

  defp detach_loading({:loads, key, true}, model), do: detach(model, key)
  defp detach_loading(_other, model), do: model

  defp loaded(model, outcome) do
    model = count(model, :loads)
    if elem(outcome, 0) == :ok, do: model, else: count(model, :load_errors)
  end

  defp store(model, key, {:ok, :large}),
    do: %{count(model, :rejected) | entries: Map.delete(model.entries, key)}

  defp store(model, key, {:ok, _value, ttl: 0}),
    do: %{model | entries: Map.delete(model.entries, key)}

  # A value that is there stays when a load fails.
  defp store(model, key, {:error, _reason} = kept) do
    case model.entries do
      %{^key => {:ok, _value}} -> model
      %{} -> put_in(model.entries[key], kept)
    end
  end

  defp store(model, _key, {:raise, _reason}), do: model
  defp store(model, key, kept), do: put_in(model.entries[key], kept)

  defp answer({:ok, value, _options}), do: {:ok, value}
  defp answer(outcome), do: outcome

  defp count(model, name), do: update_in(model.counts[name], &(&1 + 1))
end
