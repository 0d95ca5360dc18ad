defmodule Soak.Tree do
  @moduledoc false
  # An area's own supervisor, which never gives up, and its directory of files.

  use Supervisor

  @doc "Starts a supervisor under a name."
  def start_link(name, children), do: Supervisor.start_link(__MODULE__, children, name: name)

  @impl true
  def init(children),
    do: Supervisor.init(children, strategy: :one_for_one, max_restarts: 1_000_000, max_seconds: 1)

  @doc "Chooses an area's directory, which does not exist yet."
  def choose_dir(area, options) do
    name = "foundation_soak_#{System.pid()}_#{options.seed}"
    dir = Path.join([System.tmp_dir!(), name, area.name() |> String.replace(" ", "_")])
    :persistent_term.put({__MODULE__, area}, dir)
    dir
  end

  @doc "Returns an area's directory."
  def dir(area), do: :persistent_term.get({__MODULE__, area})

  @doc "Stops an area's supervisor and removes its directory."
  def close(name, area) do
    Supervisor.stop(name)
    File.rm_rf!(dir(area))
  end
end
