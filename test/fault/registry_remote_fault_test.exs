defmodule Foundation.RegistryRemoteFaultTest do
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.{Native, Registry}

  # When this failed, the VM crashed: it read the number of the remote process as a term.
  test "a remote owner that dies during a lookup is never returned" do
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

  test "a remote death reported to one registry applies to all registries" do
    alone(fn ->
      names = for _ <- 1..3, do: unique_name("remote")
      for name <- names, do: {:ok, _owner} = start(name, :unique)
      pid = foreign_pid(:told@nowhere)
      before = counts()

      for name <- names do
        assert {:ok, _owner} = Native.registry_register_for(name, pid, :key, 1)
        assert Native.registry_lookup(name, :key) == [{pid, 1}]
      end

      assert Native.registry_remote_down(hd(names), pid) == 1
      for name <- names, do: assert(Native.registry_lookup(name, :key) == [])
      for name <- names, do: eventually(fn -> Native.registry_count(name) == 0 end)
      eventually(fn -> assert counts() == before end)

      # Only the connection was lost, so the process can register again.
      for name <- names do
        assert {:ok, _owner} = Native.registry_register_for(name, pid, :key, 2)
        assert Native.registry_lookup(name, :key) == [{pid, 2}]
      end

      assert Native.registry_remote_down(hd(names), pid) == 1
    end)
  end

  test "a remote registrant that outlives its registry leaves nothing behind" do
    alone(fn ->
      before = counts()
      name = unique_name("remote")
      {:ok, owner} = start(name, :duplicate)
      pids = for serial <- 1..100, do: foreign_pid(:outliving@nowhere, serial)
      for pid <- pids, do: {:ok, _owner} = Native.registry_register_for(name, pid, :key, 1)
      assert counts().remotes == 100
      GenServer.stop(owner)

      for pid <- pids, do: assert(Native.registry_remote_down(name, pid) == nil)
      eventually(fn -> assert counts() == before end)
    end)
  end

  defp start(name, keys), do: Registry.start_link(name: name, keys: keys, engine: :native)

  defp ask(name) do
    case Native.registry_register(name, :key, :mine) do
      {:ok, _owner} -> Native.registry_unregister(name, :key)
      {:error, {:already_registered, pid}} -> true = is_pid(pid)
    end
  end
end
