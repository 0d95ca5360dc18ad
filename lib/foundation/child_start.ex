defmodule Foundation.ChildStart do
  @moduledoc false
  # Children of a supervisor whose first children own tables.
  #
  # A supervisor whose own start fails stops its earlier children in order, and an orderly stop ends
  # their tables. So that a kill during the start loses nothing, the child is started again.

  @attempts 10

  @doc "The specification of a child that is started again if it is killed in its start."
  @spec again(Supervisor.child_spec() | {module, term} | module) :: Supervisor.child_spec()
  def again(child) do
    %{start: {module, _function, _arguments} = start} = spec = Supervisor.child_spec(child, [])

    spec
    |> Map.put_new(:modules, [module])
    |> Map.put(:start, {__MODULE__, :start, [start, @attempts]})
  end

  @doc false
  def start({module, function, arguments} = start, attempts) do
    case apply(module, function, arguments) do
      {:error, :killed} when attempts > 1 -> start(start, attempts - 1)
      started_or_failed -> started_or_failed
    end
  end
end
