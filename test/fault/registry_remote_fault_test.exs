defmodule Foundation.RegistryRemoteFaultTest do
  use Foundation.Case, async: true

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

  defp ask(name) do
    case Native.registry_register(name, :key, :mine) do
      {:ok, _owner} -> Native.registry_unregister(name, :key)
      {:error, {:already_registered, pid}} -> true = is_pid(pid)
    end
  end
end
