defmodule Rooms do
  @moduledoc """
  Chat rooms: a process a room, found by the room's name, and any number of listeners.
  """

  alias Foundation.Registry

  alias Rooms.Room

  @doc "Opens a room, or finds the one that is open."
  def open(name) do
    case DynamicSupervisor.start_child(Rooms.Open, {Room, name}) do
      {:ok, room} -> {:ok, room}
      {:error, {:already_started, room}} -> {:ok, room}
    end
  end

  @doc "Closes a room. What was said in it is gone."
  def close(name), do: name |> Room.via() |> GenServer.stop()

  @doc "Says something in a room: those who listen get `{:said, room, text}`."
  def say(name, text), do: name |> Room.via() |> GenServer.call({:say, text})

  @doc "What was said in a room, the latest first."
  def said(name), do: name |> Room.via() |> GenServer.call(:said)

  @doc "The calling process listens to a room, open or not, until it ends or mutes it."
  def listen(name) do
    with {:ok, _owner} <- Registry.register(Rooms.Listeners, name, nil), do: :ok
  end

  @doc "The calling process listens no longer."
  def mute(name), do: Registry.unregister(Rooms.Listeners, name)

  @doc "The rooms in which at least `lines` lines were said, with their number."
  def busy(lines) do
    Registry.select(Rooms.Names, [
      {{:"$1", :_, %{lines: :"$2"}}, [{:>=, :"$2", lines}], [{{:"$1", :"$2"}}]}
    ])
  end
end
