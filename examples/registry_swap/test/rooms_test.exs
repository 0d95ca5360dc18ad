defmodule RoomsTest do
  use ExUnit.Case, async: true

  setup_all do
    start = {RoomsBefore.Application, :start, [:normal, []]}
    start_supervised!(%{id: RoomsBefore, start: start, type: :supervisor})
    :ok
  end

  for {rooms, names} <- [
        {RoomsBefore, "Elixir's Registry"},
        {Rooms, "Foundation.Registry"}
      ] do
    describe "on #{names}:" do
      @describetag rooms: rooms

      setup %{rooms: rooms, test: test} do
        {:ok, room} = rooms.open(test)
        %{name: test, room: room}
      end

      test "a room is opened once", %{rooms: rooms, name: name, room: room} do
        assert rooms.open(name) == {:ok, room}
      end

      test "those who listen hear what is said", %{rooms: rooms, name: name} do
        :ok = rooms.listen(name)
        :ok = rooms.say(name, "hello")
        assert_receive {:said, ^name, "hello"}

        :ok = rooms.mute(name)
        :ok = rooms.say(name, "anybody?")
        assert rooms.said(name) == ["anybody?", "hello"]
        refute_received {:said, ^name, "anybody?"}
      end

      test "a room that is closed is found no more", %{rooms: rooms, name: name, room: room} do
        :ok = rooms.close(name)
        refute Process.alive?(room)
        assert {:noproc, _call} = catch_exit(rooms.say(name, "hello"))
        assert {:ok, another} = rooms.open(name)
        assert another != room
      end

      test "busy rooms are found by the lines said in them", %{rooms: rooms, name: name} do
        :ok = rooms.say(name, "one")
        refute {name, 2} in rooms.busy(2)
        :ok = rooms.say(name, "two")
        assert {name, 2} in rooms.busy(2)
      end
    end
  end

  test "the alias is all that the sources know of Foundation" do
    sources = "lib/**/*.ex" |> Path.wildcard() |> Enum.map_join(&File.read!/1)
    aliases = Regex.scan(~r/^  alias Foundation\.Registry$/m, sources)
    assert length(aliases) == sources |> String.split("Foundation") |> tl() |> length()
    assert length(aliases) == 3
  end
end
