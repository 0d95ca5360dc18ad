defmodule Foundation.Meanwhile do
  @moduledoc """
  Runs work in several processes while something changes.
  """

  @doc """
  Runs `start.(worker)` and then `round.(worker, n)` for `n` of 0, 1, 2 … in `workers` tasks. Runs
  `change` in this process until it ran `changes` times and every worker has done `rounds`.

  Raises what a worker raises.
  """
  def meanwhile(change, start, round, opts \\ []) do
    opts = Keyword.merge([workers: 8, changes: 30, rounds: 5], opts)
    done = :atomics.new(opts[:workers] + 1, [])

    workers =
      for worker <- 1..opts[:workers] do
        Task.async(fn ->
          start.(worker)
          rounds(worker, round, done, 0)
        end)
      end

    repeat(change, opts, done, 0)
    :atomics.put(done, opts[:workers] + 1, 1)
    Task.await_many(workers, 30_000)
  end

  defp repeat(change, opts, done, changes) do
    slowest = Enum.min(for worker <- 1..opts[:workers], do: :atomics.get(done, worker))

    if changes < opts[:changes] or slowest < opts[:rounds] do
      change.()
      repeat(change, opts, done, changes + 1)
    end
  end

  defp rounds(worker, round, done, n) do
    round.(worker, n)
    :atomics.add(done, worker, 1)
    stop = :atomics.get(done, :atomics.info(done).size)
    if stop == 0, do: rounds(worker, round, done, n + 1), else: :ok
  end
end
