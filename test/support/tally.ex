defmodule Foundation.Test.Tally do
  @moduledoc false
  # An ExUnit formatter that prints the numbers of passed and failed tests in cargo's words. They
  # are the same in all versions of Elixir. `script/test` reads them.
  use GenServer

  @impl true
  def init(_options), do: {:ok, %{passed: 0, failed: 0}}

  @impl true
  def handle_cast({:test_finished, %ExUnit.Test{state: state}}, tally) do
    {:noreply, count(state, tally)}
  end

  def handle_cast({:suite_finished, _times}, %{passed: passed, failed: failed} = tally) do
    verdict = if failed == 0, do: "ok", else: "FAILED"
    IO.puts("\ntest result: #{verdict}. #{passed} passed; #{failed} failed")
    {:noreply, tally}
  end

  def handle_cast(_event, tally), do: {:noreply, tally}

  defp count(nil, tally), do: Map.update!(tally, :passed, &(&1 + 1))
  # Invalid: setup_all of its module failed, so it never ran.
  defp count({reason, _}, tally) when reason in [:failed, :invalid] do
    Map.update!(tally, :failed, &(&1 + 1))
  end

  # Skipped or excluded: it was not meant to run.
  defp count(_state, tally), do: tally
end
