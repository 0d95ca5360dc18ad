defmodule Foundation.Registry.SharedBinariesTest do
  # Not async: what is alive is counted for the whole library.
  use Foundation.Case, async: false

  alias Foundation.{Native, Registry}

  test "a binary that was read outlives its entry and its registry, and goes with its reader" do
    terms = fn -> Native.registry_live_counts().terms end
    before = terms.()
    name = unique_name("shared")
    start_supervised!({Registry, name: name, keys: :unique, engine: :native}, id: name)
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
    stop_supervised!(name)
    assert run(reader, fn -> Process.get(:read) end) == [value, part]
    assert terms.() > before

    kill(reader)
    :erlang.garbage_collect()
    eventually(fn -> assert terms.() == before end)
  end
end
