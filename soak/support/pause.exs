defmodule Soak.Pause do
  @moduledoc false
  # Stops the crew between two steps, so that no call is in flight.

  import Foundation.Eventually

  @table __MODULE__
  @poll_ms 2

  def open do
    @table = :ets.new(@table, [:named_table, :public])
    :persistent_term.put(__MODULE__, :atomics.new(1, []))
  end

  @doc "A member of the crew waits here during a pause."
  def point do
    if paused?() do
      :ets.insert(@table, {self()})
      wait()
      :ets.delete(@table, self())
    end

    :ok
  end

  defp wait do
    if paused?() do
      Process.sleep(@poll_ms)
      wait()
    end
  end

  @doc "Runs `fun` while all members of the crew wait."
  def all(fun) do
    :atomics.put(cell(), 1, 1)
    eventually(fn -> Enum.all?(Soak.Crew.members(), &:ets.member(@table, &1)) end, 60_000)
    fun.()
  after
    :atomics.put(cell(), 1, 0)
  end

  @doc "Forgets a member that died."
  def forget(pid), do: :ets.delete(@table, pid)

  defp paused?, do: :atomics.get(cell(), 1) == 1
  defp cell, do: :persistent_term.get(__MODULE__)
end
