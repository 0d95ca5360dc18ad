defmodule Foundation.RegistryRemoteFaultTest do
  # Not async: the counts of what is alive are the library's, not a test's.
  use Foundation.Case, async: false

  alias Foundation.{Native, Registry}

  # Where this failed the whole VM went: the holder's number was taken for a term.
  test "a remote holder that dies while its key is asked for is never named" do
    name = unique_name("remote")
    start_supervised!({Registry, name: name, keys: :unique, engine: :native})
    me = self()

    dying =
      spawn_link(fn ->
        for serial <- 1..150_000 do
          pid = foreign_pid(:dying@nowhere, serial)
          Native.registry_register_for(name, pid, :key, serial)
          Native.registry_remote_down(name, pid)
        end

        send(me, :done)
      end)

    asking =
      for _ <- 1..2,
          do:
            spawn_link(fn ->
              Stream.repeatedly(fn -> ask(name) end) |> Stream.run()
            end)

    assert_receive :done, 60_000

    for pid <- [dying | asking] do
      Process.unlink(pid)
      kill(pid)
    end
  end

  test "a death that one registry is told of is one in all of them" do
    names = for _ <- 1..3, do: unique_name("remote")

    for name <- names,
        do: start_supervised!({Registry, name: name, keys: :unique, engine: :native}, id: name)

    pid = foreign_pid(:told@nowhere)
    terms = Native.registry_live_counts().terms

    for name <- names do
      assert {:ok, _owner} = Native.registry_register_for(name, pid, :key, 1)
      assert Native.registry_lookup(name, :key) == [{pid, 1}]
    end

    assert Native.registry_remote_down(hd(names), pid) == 1
    for name <- names, do: assert(Native.registry_lookup(name, :key) == [])
    for name <- names, do: eventually(fn -> Native.registry_count(name) == 0 end)
    eventually(fn -> Native.registry_live_counts().terms == terms end)

    # It was only the connection: the process is met again.
    for name <- names do
      assert {:ok, _owner} = Native.registry_register_for(name, pid, :key, 2)
      assert Native.registry_lookup(name, :key) == [{pid, 2}]
    end

    assert Native.registry_remote_down(hd(names), pid) == 1
  end

  test "a remote registrant outlives its registry, and then leaves nothing behind" do
    name = unique_name("remote")
    start_supervised!({Registry, name: name, keys: :duplicate, engine: :native})
    terms = Native.registry_live_counts().terms
    pids = for serial <- 1..100, do: foreign_pid(:outliving@nowhere, serial)
    for pid <- pids, do: {:ok, _owner} = Native.registry_register_for(name, pid, :key, 1)
    stop_supervised!(name_of(name))

    for pid <- pids, do: assert(Native.registry_remote_down(name, pid) == nil)
    eventually(fn -> Native.registry_live_counts().terms == terms end)
  end

  defp name_of(name), do: Registry.child_spec(name: name, keys: :duplicate).id

  defp ask(name) do
    case Native.registry_register(name, :key, :mine) do
      {:ok, _owner} -> Native.registry_unregister(name, :key)
      {:error, {:already_registered, pid}} -> true = is_pid(pid)
    end
  end
end
