defmodule Foundation.Hostile.MemoryTest do
  @moduledoc """
  The memory of an entry, by its value, against ETS and against `info/1`.

  Runs in a VM of its own, whose memory nothing else changes.
  """
  use Foundation.Case, async: true
  use Foundation.Alone

  import Foundation.Settled

  alias Foundation.Registry

  # With so many entries, the memory of an empty registry does not matter.
  @entries 20_000
  @large_entries 2_000

  test "an entry takes at most 1.5 times its size in ETS, and info/1 is right within 15 %" do
    alone([engine: :native], fn ->
      for {name, value} <- values() do
        count = if name == :shared, do: @large_entries, else: @entries
        {ets, nil} = measure(count, fn -> ets(count, value) end)
        {ours, said} = measure(count, fn -> registry(count, value) end)
        assert {name, ours / ets <= 1.5} == {name, true}, "#{name}: #{ours}, ETS #{ets}"
        assert {name, abs(said / ours - 1) <= 0.15} == {name, true}, "#{name}: #{ours}, #{said}"
      end
    end)
  end

  test "a part of up to 64 kB keeps no longer binary alive" do
    alone([engine: :native], fn ->
      {:ok, _owner} = Registry.start_link(name: :parts, keys: :unique)
      before = used()
      # The first byte belongs to no part: from OTP 27 on, the other kind is not known as one.
      for n <- 1..50 do
        part = binary_part(:binary.copy(<<n>>, 1_000_000), 1, 60_000)
        {:ok, _owner} = Registry.register(:parts, n, {part})
        :ok = Registry.put_meta(:parts, {:part, n}, part)
      end

      assert used() - before < 100 * 60_000 * 1.1 + 1_000_000
      assert Registry.info(:parts).memory > 50 * 60_000
      assert Registry.meta(:parts, {:part, 7}) == {:ok, :binary.copy(<<7>>, 60_000)}
    end)
  end

  defp values do
    [
      binary: &long/1,
      tuple_of_binary: &{long(&1)},
      list_with_binary: &[&1, long(&1)],
      reference: fn _n -> make_ref() end,
      list_of_references: fn _n -> [make_ref(), make_ref()] end,
      map_of_short_strings: fn n -> Map.new(1..12, &{"key #{&1}", "value #{n}"}) end,
      map_of_long_strings: fn n -> Map.new(1..12, &{:"key #{&1}", long(n)}) end,
      map: &%{id: &1, name: "name #{&1}"},
      kilobyte: &:binary.copy(<<&1::32>>, 256),
      shared: &:binary.copy(<<&1::32>>, 2_500)
    ]
  end

  defp long(n), do: :binary.copy(<<n::32>>, 17)

  # Returns bytes per entry without the heaps of processes, and as the table reports them.
  defp measure(count, fill) do
    {worker, monitor} = spawn_monitor(fn -> worker(fill) end)
    send(worker, {self(), :fill})

    receive do
      {^worker, before, full, said} ->
        send(worker, {self(), :done})
        receive do: ({:DOWN, ^monitor, :process, ^worker, :normal} -> :ok)
        eventually(fn -> assert used() <= before + 200_000 end)
        {(full - before) / count, said && said / count}
    end
  end

  defp worker(fill) do
    receive do
      {test, :fill} ->
        before = used()
        table = fill.()
        full = used()
        said = if is_atom(table), do: Registry.info(table).memory
        send(test, {self(), before, full, said})

        receive do
          {^test, :done} -> if is_atom(table), do: Supervisor.stop(table)
        end
    end
  end

  defp used do
    settled(fn ->
      counts()
      :erlang.memory(:total) - :erlang.memory(:processes)
    end)
  end

  defp ets(count, value) do
    table = :ets.new(:table, [:set])
    for n <- 1..count, do: :ets.insert(table, {n, value.(n)})
    table
  end

  defp registry(count, value) do
    name = unique_name("memory")
    {:ok, _owner} = Registry.start_link(name: name, keys: :unique)
    for n <- 1..count, do: {:ok, _owner} = Registry.register(name, n, value.(n))
    name
  end
end
