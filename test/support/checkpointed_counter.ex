defmodule Foundation.Test.CheckpointedCounter do
  @moduledoc """
  A counter whose checkpoints are to survive the death of its whole node.

  `main/1` is the program of a node that a test kills: it counts as fast as it can and prints
  `restored N` once, then `did N` after each count and `saved` when a checkpoint has been written.
  """

  use Foundation.StateManager

  @impl Foundation.StateManager
  def initial_state(_options), do: state(0)

  @impl GenServer
  def handle_call(:count, _from, state) do
    next = state(state.count + 1)
    {:reply, next.count, next}
  end

  # A state that is wrong in any part is not answered with a number.
  def handle_call(:get, _from, state) do
    {:reply, if(state == state(state.count), do: state.count, else: :wrong), state}
  end

  # Large enough that a kill hits a write now and then.
  defp state(count), do: %{count: count, filler: :binary.copy(<<count::64>>, 20_000)}

  @doc "Starts a server that is linked to nothing, for a caller that ends with the call."
  def begin(options) do
    with {:ok, pid} <- start_link(options) do
      Process.unlink(pid)
      {:ok, pid}
    end
  end

  @doc "Runs until it is killed. Its argument is the directory, as a charlist or an atom."
  def main([dir]) do
    {:ok, _apps} = Application.ensure_all_started(:telemetry)
    event = [:foundation, :state, :checkpoint]
    :ok = :telemetry.attach("saved", event, &__MODULE__.saved/4, nil)

    {:ok, pid} = start_link(checkpoint_dir: to_string(dir), checkpoint_interval: 2)
    say("restored #{GenServer.call(pid, :get)}")
    loop(pid)
  end

  # Runs in the server. It counts no further before this is printed, so every `did N` that is
  # printed before a `saved` is in that checkpoint.
  def saved(_event, _measurements, _metadata, _config), do: say("saved")

  defp loop(pid) do
    say("did #{GenServer.call(pid, :count)}")
    loop(pid)
  end

  defp say(line), do: :io.put_chars(:user, [line, ?\n])
end
