defmodule Foundation.Test.CheckpointedCounter do
  @moduledoc """
  A counter whose checkpoints survive the death of its node.

  A test starts a node that runs `main/1`, and kills it. The node counts as fast as it can. It
  prints `restored N` at its start, `did N` after each count, and `saved` after each written
  checkpoint.
  """

  use Foundation.StateManager

  @impl Foundation.StateManager
  def initial_state(_options), do: state(0)

  @impl GenServer
  def handle_call(:count, _from, state) do
    next = state(state.count + 1)
    {:reply, next.count, next}
  end

  # A state with a wrong part is the answer itself, which is not a number.
  def handle_call(:get, _from, state) do
    {:reply, if(state == state(state.count), do: state.count, else: :wrong), state}
  end

  # Large enough that a kill hits a write now and then.
  defp state(count), do: %{count: count, filler: :binary.copy(<<count::64>>, 20_000)}

  @doc "Starts a server without links, so that it outlives its caller."
  def begin(options) do
    # A server that refuses to start would end its linked caller too.
    Process.flag(:trap_exit, true)

    with {:ok, pid} <- start_link(options) do
      Process.unlink(pid)
      {:ok, pid}
    end
  end

  @doc "Runs until the node is killed. Takes the directory as a charlist or an atom."
  def main([dir]) do
    {:ok, _apps} = Application.ensure_all_started(:telemetry)
    event = [:foundation, :state, :checkpoint]
    :ok = :telemetry.attach("saved", event, &__MODULE__.saved/4, nil)

    {:ok, pid} = start_link(checkpoint_dir: to_string(dir), checkpoint_interval: 2)
    say("restored #{GenServer.call(pid, :get)}")
    loop(pid)
  end

  # Runs in the server, which does not count meanwhile. So a checkpoint has every count that was
  # printed before its `saved`.
  def saved(_event, _measurements, _metadata, _config), do: say("saved")

  defp loop(pid) do
    say("did #{GenServer.call(pid, :count)}")
    loop(pid)
  end

  defp say(line), do: :io.put_chars(:user, [line, ?\n])
end
