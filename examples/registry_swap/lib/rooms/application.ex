defmodule Rooms.Application do
  @moduledoc false
  use Application

  alias Foundation.Registry

  @impl true
  def start(_type, _arguments) do
    children = [
      {Registry, keys: :unique, name: Rooms.Names},
      {Registry, keys: :duplicate, name: Rooms.Listeners},
      {DynamicSupervisor, name: Rooms.Open}
    ]

    Supervisor.start_link(children, strategy: :one_for_one)
  end
end
