defmodule Foundation.Resilience.Sleep do
  @moduledoc false
  # Sleeps of any length: a slot of a rate limiter can be further away than a `receive` can wait.

  @longest 4_294_967_295

  @spec sleep(non_neg_integer) :: :ok
  def sleep(ms) when ms > @longest do
    Process.sleep(@longest)
    sleep(ms - @longest)
  end

  def sleep(ms), do: Process.sleep(ms)
end
