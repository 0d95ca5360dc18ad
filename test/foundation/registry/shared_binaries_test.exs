defmodule Foundation.Registry.SharedBinariesTest do
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.Registry

  test "a binary that was read outlives its registry and is freed with its reader" do
    alone(fn ->
      before = counts()
      name = unique_name("shared")
      {:ok, owner} = Registry.start_link(name: name, keys: :unique, engine: :native)
      value = :binary.copy("0123456789", 1_000)
      part = binary_part(value, 3, 500)
      {:ok, _} = Registry.register(name, :whole, value)
      {:ok, _} = Registry.register(name, :part, part)

      reader = start_worker()

      run(reader, fn ->
        read = for key <- [:whole, :part], [{_pid, value}] = Registry.lookup(name, key), do: value
        Process.put(:read, read)
        :ok
      end)

      Registry.unregister(name, :whole)
      GenServer.stop(owner)
      assert run(reader, fn -> Process.get(:read) end) == [value, part]
      assert counts().binaries > before.binaries

      kill(reader)
      :erlang.garbage_collect()
      eventually(fn -> assert counts() == before end)
    end)
  end
end
