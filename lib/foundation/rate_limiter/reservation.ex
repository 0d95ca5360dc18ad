defmodule Foundation.RateLimiter.Reservation do
  @moduledoc false
  # `settled`: one atomic, which is set by the one who settles it.

  @enforce_keys [:name, :slot, :cost, :settled]
  defstruct [:name, :slot, :cost, :settled]
end
