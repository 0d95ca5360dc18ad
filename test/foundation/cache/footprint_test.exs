defmodule Foundation.Cache.FootprintTest do
  # Not async: it measures tables that all caches of the ETS engine share.
  use Foundation.Conformance.Cache, async: false

  import Foundation.Settled

  alias Foundation.Cache.Backends.ETS.Store

  @tables [Module.concat(Store, Entries), Module.concat(Store, Order)]
  @entries 5_000

  defp used do
    settled(fn ->
      words = for table <- @tables, do: :ets.info(table, :memory)
      Enum.sum(words) * :erlang.system_info(:wordsize) + :erlang.memory(:binary)
    end)
  end

  for {title, key, value} <- [
        {"small terms", quote(do: & &1), quote(do: & &1)},
        {"binaries on the heap", quote(do: &"key #{&1}"),
         quote(do: &String.duplicate("x", rem(&1, 60)))},
        {"large binaries", quote(do: &{:key, &1}), quote(do: &:binary.copy(<<&1::8>>, 5_000))},
        {"slices of large binaries", quote(do: & &1),
         quote(do: &binary_part(:binary.copy(<<&1::8>>, 100_000), 10, 500))},
        {"vectors", quote(do: &"text #{&1}"),
         quote(do: fn n -> for(i <- 1..200, do: n * 1.0 + i) end)},
        {"maps", quote(do: &%{id: &1}),
         quote(do: &%{id: &1, name: "name #{&1}", tags: [:a, "b"]})}
      ] do
    test "the bytes of #{title} are those of the tables, within 15 %" do
      cache = cache!(:ets, max_bytes: 1_000_000_000)
      before = used()

      for n <- 1..@entries do
        Cache.put(cache, unquote(key).(n), unquote(value).(n))
      end

      taken = used() - before
      bytes = Cache.stats(cache).bytes
      assert_in_delta bytes / taken, 1.0, 0.15
    end
  end
end
