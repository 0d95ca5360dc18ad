defmodule Foundation.Callback do
  @moduledoc false
  # Refuses what stands where a function is expected. A last clause calls it, so that the check
  # costs nothing where the function is one.

  @spec refuse!(term, arity) :: no_return
  def refuse!(other, arity) do
    raise ArgumentError, "expected a function of arity #{arity}, got: #{inspect(other)}"
  end
end
