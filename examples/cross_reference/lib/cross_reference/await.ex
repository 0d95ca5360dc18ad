defmodule CrossReference.Await do
  @moduledoc false
  # Waits for what other processes are about to do.

  @poll_ms 1
  @give_up_ms 120_000

  @doc "Returns when `condition` holds; raises when it does not within two minutes."
  @spec until!(String.t(), (() -> boolean)) :: :ok
  def until!(what, condition) do
    if within?(@give_up_ms, condition) do
      :ok
    else
      raise "waited #{div(@give_up_ms, 1000)} s in vain for #{what}"
    end
  end

  @doc "Returns whether `condition` comes to hold within `ms`."
  @spec within?(non_neg_integer, (() -> boolean)) :: boolean
  def within?(ms, condition), do: poll(condition, now() + ms)

  defp poll(condition, deadline) do
    cond do
      condition.() ->
        true

      now() > deadline ->
        false

      true ->
        Process.sleep(@poll_ms)
        poll(condition, deadline)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
