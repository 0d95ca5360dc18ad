defmodule Foundation.Hostile.RestoredTest do
  @moduledoc """
  Values are read and stored again, many times. The memory stays proportional to the number of
  entries.

  Each test has a VM of its own, since the library counts for the whole VM.
  """
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.{ConcurrentRegistry, Registry}

  @times 2_000
  # Shorter binaries are copied, longer ones are shared.
  @lengths [65, 8_192, 8_193, 50_000]

  for engine <- [:native, :ets] do
    describe "on #{engine}:" do
      test "update/4 that writes an unchanged binary keeps one copy" do
        alone([engine: unquote(engine)], fn ->
          for length <- @lengths, shape <- shapes() do
            table = ConcurrentRegistry.new()
            ConcurrentRegistry.put(table, :key, shape.(bytes(length)))

            assert_bounded(length, fn ->
              for _ <- 1..@times, do: ConcurrentRegistry.update(table, :key, nil, & &1)
            end)

            assert ConcurrentRegistry.get(table, :key) === shape.(bytes(length))
            ConcurrentRegistry.delete(table, :key)
          end
        end)
      end

      test "update_value/3 and put_meta/3 that write an unchanged binary keep one copy" do
        alone([engine: unquote(engine)], fn ->
          {:ok, _owner} = Registry.start_link(name: :restored, keys: :unique)

          for length <- @lengths, shape <- shapes() do
            {:ok, _owner} = Registry.register(:restored, :key, shape.(bytes(length)))
            :ok = Registry.put_meta(:restored, :key, shape.(bytes(length)))

            assert_bounded(2 * length, fn ->
              for _ <- 1..@times do
                {_new, _old} = Registry.update_value(:restored, :key, & &1)
                {:ok, value} = Registry.meta(:restored, :key)
                :ok = Registry.put_meta(:restored, :key, value)
              end
            end)

            :ok = Registry.unregister(:restored, :key)
            :ok = Registry.delete_meta(:restored, :key)
          end
        end)
      end

      test "a binary that moves from key to key keeps one copy" do
        alone([engine: unquote(engine)], fn ->
          for length <- @lengths, shape <- shapes() do
            table = ConcurrentRegistry.new()
            ConcurrentRegistry.put(table, 0, shape.(bytes(length)))

            assert_bounded(length, fn ->
              for n <- 1..@times do
                ConcurrentRegistry.put(table, n, ConcurrentRegistry.get(table, n - 1))
                ConcurrentRegistry.delete(table, n - 1)
              end
            end)

            ConcurrentRegistry.delete(table, @times)
          end
        end)
      end

      test "a buffer consumed in parts keeps only its last part" do
        alone([engine: unquote(engine)], fn ->
          table = ConcurrentRegistry.new()
          ConcurrentRegistry.put(table, :key, bytes(20 * @times))

          assert_bounded(20 * @times, fn ->
            for _ <- 1..(@times - 10) do
              ConcurrentRegistry.update(table, :key, nil, fn <<_::20-bytes, rest::bytes>> ->
                rest
              end)
            end
          end)

          assert byte_size(ConcurrentRegistry.get(table, :key)) == 200
          ConcurrentRegistry.delete(table, :key)
        end)
      end
    end
  end

  test "a part of a shared binary keeps the whole alive only while a reader refers to it" do
    alone([engine: :native], fn ->
      table = ConcurrentRegistry.new()
      whole = bytes(100_000)
      ConcurrentRegistry.put(table, :whole, whole)
      read = ConcurrentRegistry.get(table, :whole)
      ConcurrentRegistry.put(table, :part, binary_part(read, 50_000, 20_000))
      ConcurrentRegistry.delete(table, :whole)
      part = ConcurrentRegistry.get(table, :part)
      ConcurrentRegistry.delete(table, :part)
      assert part == binary_part(whole, 50_000, 20_000)
      eventually(fn -> assert counts().binaries in 1..2 end)
      assert byte_size(read) == 100_000
    end)
  end

  defp shapes, do: [& &1, &{:in, &1}, &%{in: [&1, 1]}, &[&1, &1]]

  defp bytes(length), do: :binary.copy(<<7>>, length)

  # A collection frees a term that was read. A scheduler frees its resource later.
  defp assert_bounded(bytes, change) do
    before = settled()
    change.()

    eventually(fn ->
      after_it = settled()
      assert after_it.binaries <= before.binaries
      assert after_it.terms <= before.terms
      assert after_it.memory <= before.memory + 4 * bytes + 1_000_000
    end)
  end

  defp settled do
    :erlang.garbage_collect()
    counts = counts() || %{binaries: 0, terms: 0}
    Map.put(counts, :memory, :erlang.memory(:system))
  end
end
