defmodule Foundation.RegistryModel do
  @moduledoc """
  The model of a registry: a list of entries in the order of registration.

  Registrants are named `{slot, generation}`. If a slot's process dies, the next one in the slot is
  another registrant. Every function returns `{result, model}`. Results name registrants in the same
  way.
  """

  defstruct kind: :unique, entries: [], generations: %{}

  @type slot :: pos_integer
  @type registrant :: {slot, pos_integer}
  @type t :: %__MODULE__{
          kind: :unique | :duplicate,
          entries: [{key :: term, registrant, value :: term}],
          generations: %{slot => pos_integer}
        }

  @spec new(:unique | :duplicate, pos_integer) :: t
  def new(kind, slots), do: %__MODULE__{kind: kind, generations: Map.new(1..slots, &{&1, 1})}

  @doc "The process in a slot."
  @spec registrant(t, slot) :: registrant
  def registrant(model, slot), do: {slot, Map.fetch!(model.generations, slot)}

  def register(%{kind: :unique} = model, slot, key, value) do
    case lookup(model, key) do
      [{taken_by, _value}] -> {{:error, {:already_registered, taken_by}}, model}
      [] -> {:ok, append(model, slot, key, value)}
    end
  end

  def register(model, slot, key, value), do: {:ok, append(model, slot, key, value)}

  def unregister(model, slot, key) do
    me = registrant(model, slot)
    {:ok, reject(model, fn {k, who, _value} -> k === key and who == me end)}
  end

  def unregister_value(model, slot, key, value) do
    me = registrant(model, slot)
    {:ok, reject(model, fn {k, who, v} -> k === key and who == me and v === value end)}
  end

  def update_value(model, slot, key, fun) do
    me = registrant(model, slot)

    case lookup(model, key) do
      [{^me, old}] ->
        new = fun.(old)

        entries =
          for {k, who, value} <- model.entries,
              do: if(k === key, do: {k, who, new}, else: {k, who, value})

        {{new, old}, %{model | entries: entries}}

      _none_or_another ->
        {:error, model}
    end
  end

  @doc "The slot's process dies, and another takes its place."
  def kill(model, slot) do
    dead = registrant(model, slot)
    model = reject(model, fn {_key, who, _value} -> who == dead end)
    {:ok, %{model | generations: Map.update!(model.generations, slot, &(&1 + 1))}}
  end

  def lookup(model, key), do: for({k, who, value} <- model.entries, k === key, do: {who, value})

  def keys(model, slot) do
    me = registrant(model, slot)
    for {key, ^me, _value} <- model.entries, do: key
  end

  def values(model, key, slot) do
    me = registrant(model, slot)
    for {^me, value} <- lookup(model, key), do: value
  end

  @doc "Size, distinct keys and registrants, as `Foundation.Registry.info/1` counts them."
  def figures(model) do
    distinct = fn position ->
      model.entries |> MapSet.new(&elem(&1, position)) |> MapSet.size()
    end

    %{size: length(model.entries), keys: distinct.(0), processes: distinct.(1)}
  end

  defp append(model, slot, key, value),
    do: %{model | entries: model.entries ++ [{key, registrant(model, slot), value}]}

  defp reject(model, gone?), do: %{model | entries: Enum.reject(model.entries, gone?)}
end
