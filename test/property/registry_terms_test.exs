defmodule Foundation.RegistryTermsPropertyTest do
  @moduledoc """
  Random terms as keys and values. A map of the VM says whether two terms are one key or two.
  Returned values are compared by their external form, which tells `0.0` from `-0.0`.
  """
  use Foundation.Case, async: true

  alias Foundation.{RandomTerms, Registry}

  @terms 5_000

  for engine <- [:native, :ets] do
    test "two terms are the same key if and only if they are equal, on #{engine}" do
      name = start_registry(unquote(engine))
      terms = random_terms(@terms)

      model =
        Enum.reduce(terms, %{}, fn term, model ->
          copy = RandomTerms.rebuild(term)

          case Registry.register(name, copy, term) do
            {:ok, _owner} ->
              refute is_map_key(model, term), "told apart from its equal: #{show(term)}"

            {:error, {:already_registered, _pid}} ->
              assert is_map_key(model, term), "taken for another: #{show(term)}"
              assert [_entry] = Registry.match(name, copy, :_)
              assert [_value] = Registry.values(name, copy, self())
          end

          Map.put_new(model, term, term)
        end)

      assert map_size(model) > div(@terms, 4)

      for {key, value} <- model do
        assert [{_pid, found}] = Registry.lookup(name, RandomTerms.rebuild(key))

        assert RandomTerms.same?(found, value),
               "came back as another: #{show(value)}, #{show(found)}"
      end

      keys = Registry.keys(name, self())
      assert length(keys) == map_size(model)
      for key <- keys, do: assert(is_map_key(model, key), "no such key: #{show(key)}")

      for {key, _value} <- model, do: :ok = Registry.unregister(name, key)
      assert Registry.count(name) == 0
    end
  end

  defp start_registry(engine) do
    name = unique_name("terms")
    start_supervised!({Registry, name: name, keys: :unique, engine: engine})
    name
  end

  # From ExUnit's seed, so that a failure can be repeated.
  defp random_terms(count) do
    :rand.seed(:exsss, ExUnit.configuration()[:seed])
    shared = RandomTerms.shared()
    for _ <- 1..count, do: RandomTerms.term(shared, :rand.uniform(5) - 1)
  end

  defp show(term), do: inspect(term, limit: 20, printable_limit: 40)
end
