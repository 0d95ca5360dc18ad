defmodule Foundation.TermsFuzzTest do
  @moduledoc """
  Terms and similar ones as keys and values, through every call that encodes, finds, decodes or
  compares them. Both engines must agree with a map of the VM.
  """
  # Not async: the event windows belong to the application.
  use Foundation.Case

  import Foundation.Fuzz

  alias Foundation.{ConcurrentRegistry, RandomTerms, Registry}
  alias Foundation.Telemetry.Events

  @terms 40
  # Far longer than an input takes.
  @window_ms 600_000

  @tag timeout: :infinity
  test "two terms are the same key if and only if they are equal, and are returned unchanged" do
    for engine <- [:native, :ets], keys <- [:unique, :duplicate] do
      start_supervised!({Registry, name: name(engine, keys), keys: keys, engine: engine})
    end

    tables = for engine <- [:native, :ets], do: ConcurrentRegistry.new(engine: engine)

    each_input("terms", fn input ->
      terms = terms()
      unique(terms)
      duplicate(terms)
      for table <- tables, do: plain(table, terms)
      if Foundation.engine() == :native, do: windows(terms, input)
    end)
  end

  defp name(engine, keys), do: :"terms_#{engine}_#{keys}"

  # Many of the terms are variants of each other.
  defp terms do
    shared = RandomTerms.shared()

    Enum.reduce(1..@terms, [], fn _, terms ->
      term =
        case {:rand.uniform(5), terms} do
          {1, [_ | _]} -> RandomTerms.rebuild(pick(terms))
          {n, [_ | _]} when n <= 3 -> RandomTerms.near(pick(terms))
          _ -> RandomTerms.term(shared, :rand.uniform(5) - 1)
        end

      [term | terms]
    end)
  end

  defp unique(terms) do
    model =
      Enum.reduce(terms, %{}, fn term, model ->
        copy = RandomTerms.rebuild(term)

        for registry <- registries(:unique) do
          case Registry.register(registry, copy, term) do
            {:ok, _owner} -> is_map_key(model, term) and wrong("told apart from its equal", term)
            {:error, _taken} -> is_map_key(model, term) or wrong("taken for another", term)
          end
        end

        Map.put_new(model, term, term)
      end)

    for registry <- registries(:unique) do
      asked = Enum.map(terms, &RandomTerms.near/1) ++ Enum.map(terms, &RandomTerms.rebuild/1)

      for term <- asked do
        found = Registry.lookup(registry, term)
        found?(found, model, term) or wrong("not found as it was registered", {term, found})
        assert Registry.match(registry, term, :_) === found
        assert Registry.values(registry, term, self()) === for({_pid, value} <- found, do: value)

        assert Registry.whereis_name({registry, term}) ==
                 if(found == [], do: :undefined, else: self())
      end

      assert Registry.lookup_many(registry, asked) ===
               Enum.map(asked, &Registry.lookup(registry, &1))

      same_keys(Registry.keys(registry, self()), model)
      same_keys(Registry.select(registry, [{{:"$1", :_, :_}, [], [:"$1"]}]), model)
      for {key, _pid, value} <- Registry.stream(registry), do: assert(model[key] === value)

      changed = pick(Map.keys(model))
      value = pick(terms)
      {new, _old} = Registry.update_value(registry, changed, fn _ -> value end)
      assert [{_pid, found}] = Registry.lookup(registry, changed)
      assert RandomTerms.same?(new, value) and RandomTerms.same?(found, value)

      # Unregistering an absent key changes nothing.
      for term <- asked,
          not is_map_key(model, term),
          do: :ok = Registry.unregister(registry, term)

      assert Registry.count(registry) == map_size(model)

      for {key, _value} <- model,
          do: :ok = Registry.unregister(registry, RandomTerms.rebuild(key))

      assert Registry.count(registry) == 0
    end
  end

  # No function may take a bound key for a pattern.
  defp found?(found, model, term) do
    case {found, model} do
      {[{pid, value}], %{^term => stored}} -> pid == self() and RandomTerms.same?(value, stored)
      {[], %{^term => _}} -> false
      {found, _model} -> found == []
    end
  end

  defp duplicate(terms) do
    for registry <- registries(:duplicate) do
      for {term, value} <- Enum.zip(terms, Enum.reverse(terms)),
          do: {:ok, _owner} = Registry.register(registry, term, value)

      kept = Enum.zip(terms, Enum.reverse(terms))
      gone = pick(terms)

      for term <- terms do
        expected = for {key, value} <- kept, key === term, do: value
        found = Registry.lookup(registry, RandomTerms.rebuild(term))
        values = for {_pid, value} <- found, do: value
        same_list?(values, expected) or wrong("not found as they were registered", term)
      end

      keys = Registry.keys(registry, self())
      assert Enum.frequencies(keys) === Enum.frequencies(terms)

      # Only values that a pattern compares literally.
      value = pick(terms)
      if literal?(value), do: :ok = Registry.unregister_match(registry, gone, value)
      left = if literal?(value), do: Enum.reject(kept, &removed?(&1, gone, value)), else: kept

      Registry.count(registry) == length(left) or
        wrong("not what was to be removed", {gone, value})

      for {key, _value} <- left, do: :ok = Registry.unregister(registry, key)
      assert Registry.count(registry) == 0
    end
  end

  defp plain(table, terms) do
    model =
      for term <- terms, reduce: %{} do
        model ->
          is_new = ConcurrentRegistry.put_new(table, RandomTerms.rebuild(term), [term])
          is_new == not is_map_key(model, term) or wrong("a key of a concurrent table", term)
          ConcurrentRegistry.update(table, term, nil, &[term | &1])
          Map.update(model, term, [term, term], &[term | &1])
      end

    for {key, value} <- model, do: assert(ConcurrentRegistry.get(table, key) === value)
    assert Map.new(ConcurrentRegistry.stream(table)) === model
    for {key, _value} <- model, do: ConcurrentRegistry.delete(table, RandomTerms.rebuild(key))
    assert ConcurrentRegistry.size(table) == 0
  end

  # The value is a pattern. Patterns tell 0.0 from -0.0 on every OTP.
  defp removed?({key, stored}, gone, value), do: key === gone and RandomTerms.same?(stored, value)

  # In a pattern, a map matches larger maps, and some atoms match any term.
  defp literal?(term) when is_map(term), do: false
  defp literal?([head | tail]), do: literal?(head) and literal?(tail)
  defp literal?(term) when is_tuple(term), do: term |> Tuple.to_list() |> literal?()
  defp literal?(term), do: term != :_

  # The first event of each key opens its window, and no other event does.
  defp windows(terms, input) do
    terms = Enum.reject(terms, &negative_zero?/1)

    Enum.reduce(terms, %{}, fn term, seen ->
      key = {input, self(), RandomTerms.rebuild(term)}
      expected = if is_map_key(seen, term), do: :ok, else: :emit
      decided = Events.Backends.Native.admit([:fuzz, :terms], key, @window_ms)
      decided == expected or wrong("the window was not of it", term)
      Map.put(seen, term, true)
    end)
  end

  # Up to OTP 26 it equals the other zero. Windows treat them as one only in short terms.
  defp negative_zero?(term), do: :erlang.term_to_binary(term) =~ <<70, 0x80, 0::56>>

  defp registries(keys), do: for(engine <- [:native, :ets], do: name(engine, keys))

  defp same_keys(keys, model) do
    assert length(keys) == map_size(model)
    for key <- keys, do: is_map_key(model, key) or wrong("no such key", key)
  end

  defp same_list?(one, other) do
    length(one) == length(other) and
      Enum.all?(Enum.zip(one, other), fn {one, other} -> RandomTerms.same?(one, other) end)
  end

  # Formats the term only on a failure, because that takes long.
  defp wrong(what, term), do: flunk("#{what}: #{inspect(term, limit: 50, printable_limit: 200)}")
end
