defmodule Soak.Registry.Tree do
  @moduledoc false
  # The supervisor of the three registries, under another one that restarts it.

  use Supervisor

  # Its children end after it. It cannot start again until they have.
  @restarts 1_000_000

  def start_link(engine, meta) do
    child = %{
      id: __MODULE__,
      start: {__MODULE__, :start_child, [engine, meta]},
      type: :supervisor
    }

    Supervisor.start_link([child], strategy: :one_for_one, max_restarts: @restarts, max_seconds: 1)
  end

  def start_child(engine, meta),
    do: Supervisor.start_link(__MODULE__, {engine, meta}, name: __MODULE__)

  @impl true
  def init({engine, meta}) do
    children =
      for {name, keys} <- [
            {Soak.Unique, :unique},
            {Soak.Duplicate, :duplicate},
            {Soak.Stopped, :unique}
          ],
          do: {Foundation.Registry, name: name, keys: keys, meta: meta, engine: engine}

    Supervisor.init(children, strategy: :one_for_one, max_restarts: @restarts, max_seconds: 1)
  end
end
