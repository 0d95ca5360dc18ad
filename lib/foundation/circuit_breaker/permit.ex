defmodule Foundation.CircuitBreaker.Permit do
  @moduledoc false
  # A number of the library, or a reference of the ETS engine.

  @enforce_keys [:name, :holder, :id]
  defstruct [:name, :holder, :id]
end
