defmodule Foundation.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    with {:ok, _engine} <-
           Foundation.Engine.boot(Application.get_env(:foundation, :engine, :auto)) do
      # one_for_one: the areas do not depend on each other's processes.
      Supervisor.start_link([], strategy: :one_for_one, name: Foundation.Supervisor)
    end
  end
end
