defmodule Rooms.Room do
  @moduledoc false
  use GenServer, restart: :transient

  alias Foundation.Registry

  def start_link(name) do
    GenServer.start_link(__MODULE__, name,
      name: {:via, Registry, {Rooms.Names, name, %{lines: 0}}}
    )
  end

  def via(name), do: {:via, Registry, {Rooms.Names, name}}

  @impl true
  def init(name), do: {:ok, %{name: name, said: []}}

  @impl true
  def handle_call({:say, text}, _from, room) do
    {_new, _old} = Registry.update_value(Rooms.Names, room.name, &%{&1 | lines: &1.lines + 1})

    Registry.dispatch(Rooms.Listeners, room.name, fn listeners ->
      for {listener, _} <- listeners, do: send(listener, {:said, room.name, text})
    end)

    {:reply, :ok, %{room | said: [text | room.said]}}
  end

  def handle_call(:said, _from, room), do: {:reply, room.said, room}
end
