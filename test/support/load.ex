defmodule Foundation.Load do
  @moduledoc """
  Processes that keep a system busy while a test injects faults.

  Each runs its step again and again, with a state of its own, until it is told to stop. The test
  can wait for progress, so that every fault falls into work and not into a pause.
  """

  import Foundation.Eventually

  defstruct [:cells, tasks: []]

  @stop 1
  @steps 2

  @doc """
  Starts one process for each step, a function of its last result. Its first argument is `nil`.
  """
  @spec start([(term -> term)]) :: %__MODULE__{}
  def start(steps) do
    cells = :atomics.new(2, [])

    %__MODULE__{
      cells: cells,
      tasks: for(step <- steps, do: Task.async(fn -> repeat(cells, step, nil) end))
    }
  end

  @doc "Returns when the processes together have made `count` further steps."
  @spec progress(%__MODULE__{}, pos_integer) :: :ok
  def progress(%{cells: cells, tasks: tasks}, count) do
    target = :atomics.get(cells, @steps) + count

    eventually(
      fn -> :atomics.get(cells, @steps) >= target or Enum.any?(tasks, &dead?/1) end,
      30_000
    )

    :ok
  end

  @doc "Lets every process finish its step. Returns the last results, in the order of the steps."
  @spec stop(%__MODULE__{}) :: [term]
  def stop(%{cells: cells, tasks: tasks}) do
    :atomics.put(cells, @stop, 1)
    Task.await_many(tasks, 60_000)
  end

  # stop/1 or the link reports its failure.
  defp dead?(task), do: not Process.alive?(task.pid)

  defp repeat(cells, step, state) do
    state = step.(state)
    :atomics.add(cells, @steps, 1)
    if :atomics.get(cells, @stop) == 1, do: state, else: repeat(cells, step, state)
  end
end
