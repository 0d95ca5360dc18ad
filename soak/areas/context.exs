defmodule Soak.Context do
  @moduledoc false
  # The error context. Under all faults it is the map that was set, and after `with_context/2`
  # returns, raises, throws or exits it is the earlier one.

  @behaviour Soak.Area

  alias Foundation.ErrorContext
  alias Soak.{Epoch, Faults, Record}

  @impl true
  def name, do: "context"

  @impl true
  def invariants, do: [context: "contexts not as they were set"]

  @impl true
  def open(_options), do: Epoch.open([:context])

  @impl true
  def crew, do: [%{count: 2, init: & &1, step: &nest/1}]

  @impl true
  def faults(_engine),
    do: [{"owner of the raised contexts killed", 2, fn -> Faults.kill(ErrorContext.Raised) end}]

  defp nest(index) do
    Epoch.judge(:context, fn _epoch ->
      :ok = ErrorContext.set_context(%{index: index})
      nested(%{index: index}, :rand.uniform(8))
      :ok = ErrorContext.clear_context()
      expect(ErrorContext.get_context(), %{})
    end)

    ErrorContext.clear_context()
    {1, index}
  end

  defp nested(context, 0), do: expect(ErrorContext.get_context(), context)

  defp nested(context, depth) do
    more = %{{:level, depth} => depth, request_id: "r-#{depth}"}
    inside = Map.merge(context, more)

    outcome =
      try do
        ErrorContext.with_context(more, fn ->
          expect(ErrorContext.get_context(), inside)
          nested(inside, depth - 1)
          leave(:rand.uniform(4), inside)
        end)
      rescue
        error in RuntimeError ->
          enriched(ErrorContext.enrich_error(error), error, inside, context)
      catch
        :throw, :thrown -> :thrown
        :exit, :left -> :left
      end

    expect(ErrorContext.get_context(), context)
    outcome
  end

  # The messages are unique: this recursion has equal stacktraces, and raises with equal messages
  # and stacktraces cannot be told apart.
  defp leave(1, _inside), do: raise("raised #{System.unique_integer()}")
  defp leave(2, _inside), do: throw(:thrown)
  defp leave(3, _inside), do: exit(:left)

  defp leave(4, inside) do
    task = ErrorContext.async(fn -> ErrorContext.get_context() end)
    expect(Task.await(task), inside)
  end

  # The kept context is lost with its owner. Then the current context counts.
  defp enriched(%{error: error, context: found}, error, inside, outside),
    do: Record.check!(:context, found in [inside, outside], fn -> {found, inside, outside} end)

  defp expect(found, expected),
    do: Record.check!(:context, found == expected, fn -> {found, :instead_of, expected} end)

  @impl true
  def audit, do: :ok
end
