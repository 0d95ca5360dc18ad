defmodule Foundation.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    # one_for_one: the areas do not depend on each other's processes.
    Supervisor.start_link([], strategy: :one_for_one, name: Foundation.Supervisor)
  end
end
