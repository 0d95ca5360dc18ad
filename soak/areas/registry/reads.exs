defmodule Soak.Registry.Reads do
  @moduledoc false
  # All functions that read an entry. Each returns `[{pid, value}]`.

  alias Foundation.Registry

  @every [:lookup, :lookup_many, :values, :keys, :match, :select, :dispatch]

  @doc "Stands for the value where a function returns none."
  def no_value, do: :no_value

  def all(Soak.Duplicate), do: @every
  def all(_unique), do: [:whereis | @every]

  # A stream reads the whole table, so it is used seldom.
  def any(registry) do
    if :rand.uniform(50) == 1, do: :stream, else: Enum.random(all(registry))
  end

  def run(how, registry, key, row)
  def run(:lookup, registry, key, _row), do: Registry.lookup(registry, key)

  def run(:lookup_many, registry, key, _row) do
    [[], found, []] = Registry.lookup_many(registry, [:absent, key, :absent])
    found
  end

  def run(:whereis, registry, key, _row) do
    case Registry.whereis_name({registry, key}) do
      :undefined -> []
      pid -> [{pid, no_value()}]
    end
  end

  def run(:values, registry, key, {pid, _value, _epoch}),
    do: for(value <- Registry.values(registry, key, pid), do: {pid, value})

  def run(:keys, registry, key, {pid, _value, _epoch}),
    do: for(own <- Registry.keys(registry, pid), own === key, do: {pid, no_value()})

  def run(how, registry, key, nil) when how in [:values, :keys],
    do: run(:lookup, registry, key, nil)

  def run(:match, registry, key, _row), do: Registry.match(registry, key, :_)

  def run(:select, registry, key, _row) do
    guard = {:"=:=", :"$1", {:const, key}}
    Registry.select(registry, [{{:"$1", :"$2", :"$3"}, [guard], [{{:"$2", :"$3"}}]}])
  end

  def run(:dispatch, registry, key, _row) do
    me = make_ref()
    Registry.dispatch(registry, key, &send(self(), {me, &1}))

    receive do
      {^me, entries} -> entries
    after
      0 -> []
    end
  end

  def run(:stream, registry, key, _row),
    do: for({^key, pid, value} <- Registry.stream(registry), do: {pid, value})
end
