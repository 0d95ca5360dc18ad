defmodule RoomsCrashTest do
  # async: false, because the names of all rooms are taken away for a moment.
  use ExUnit.Case, async: false

  setup_all do
    # Not restarted: a crash is what one of the tests is about.
    start = {RoomsBefore.Application, :start, [:normal, []]}
    start_supervised!(%{id: RoomsBefore, start: start, type: :supervisor, restart: :temporary})
    :ok
  end

  @tag :capture_log
  test "on Elixir's Registry the rooms die with the registry" do
    {:ok, room} = RoomsBefore.open("lobby")
    monitor = Process.monitor(room)
    Process.exit(Process.whereis(RoomsBefore.Names), :kill)
    assert_receive {:DOWN, ^monitor, :process, ^room, _reason}
  end

  test "on Foundation.Registry they outlive its crash, and are found all the while" do
    {:ok, room} = Rooms.open("lobby")
    :ok = Rooms.say("lobby", "hello")

    registry = Process.whereis(Rooms.Names)
    monitor = Process.monitor(registry)
    Process.exit(registry, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^registry, :killed}

    assert Rooms.said("lobby") == ["hello"]
    assert Rooms.open("lobby") == {:ok, room}
  end
end
