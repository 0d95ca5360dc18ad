defmodule Soak.State do
  @moduledoc false
  # Servers whose state is checkpointed. After a kill the state is between the last durable checkpoint
  # and the last answer. After an orderly stop it is that of the last answer.

  @behaviour Soak.Area

  alias Foundation.StateManager
  alias Soak.{Faults, Record, Tree}

  defmodule Counter do
    @moduledoc false
    use StateManager

    @impl StateManager
    def initial_state(_options), do: state(0)

    @impl GenServer
    def handle_call(:count, _from, %{count: count}), do: {:reply, count + 1, state(count + 1)}
    # A state with a wrong part is the answer itself, which is not a number and fails the check.
    def handle_call(:get, _from, state),
      do: {:reply, if(state == state(state.count), do: state.count, else: state), state}

    defp state(count), do: %{count: count, filler: :binary.copy(<<count::64>>, 2_000)}
  end

  @tree Soak.State.Tree
  @servers [:soak_state_1, :soak_state_2]

  @impl true
  def name, do: "state"

  @impl true
  def invariants,
    do: [
      state: "states lost or wrong after a restart",
      directory: "second servers admitted to a directory through a symlink"
    ]

  @impl true
  def open(options) do
    dir = Tree.choose_dir(__MODULE__, options)

    children =
      for server <- @servers do
        options = [
          name: server,
          checkpoint_dir: Path.join(dir, "#{server}"),
          checkpoint_interval: 100
        ]

        Supervisor.child_spec({Counter, options}, id: server)
      end

    {:ok, _pid} = Tree.start_link(@tree, children)
    for server <- @servers, do: File.ln_s!("#{server}", link(dir, server))
    :ok
  end

  defp link(dir, server), do: Path.join(dir, "#{server}_link")

  @impl true
  def close, do: Tree.close(@tree, __MODULE__)

  @impl true
  def crew, do: [%{count: length(@servers), init: &start/1, step: &count/1}]

  @impl true
  def faults(_engine) do
    for server <- @servers,
        fault <- [
          {"checkpointed server killed", 2, fn -> Faults.kill(server) end},
          {"second server through a symlink", 1, fn -> intrude(server) end}
        ],
        do: fault
  end

  # The server links to its caller. A process of its own ends a server that was wrongly started.
  defp intrude(server) do
    Faults.await(server)
    options = [name: nil, checkpoint_dir: link(Tree.dir(__MODULE__), server)]

    {pid, ref} =
      spawn_monitor(fn ->
        Process.flag(:trap_exit, true)
        exit({:answer, Counter.start_link(options)})
      end)

    receive do
      {:DOWN, ^ref, :process, ^pid, {:answer, answer}} ->
        refused? = match?({:error, {:checkpoint_dir, _link, :in_use}}, answer)
        Record.check!(:directory, refused?, fn -> {server, answer} end)
    end
  end

  defp start(index) do
    server = Enum.at(@servers, index - 1)
    %{server: server, answered: GenServer.call(server, :get), durable: 0, unanswered: 0}
  end

  # Only this member counts with its server, so it knows the bounds of the server's state.
  defp count(state) do
    state = if :rand.uniform(50) == 1, do: checkpoint(state), else: state
    answer = GenServer.call(state.server, :count)
    lowest = state.durable + 1
    highest = state.answered + state.unanswered + 1
    right? = is_integer(answer) and answer in lowest..highest
    Record.check!(:state, right?, fn -> {answer, :not_in, lowest..highest} end)
    Process.sleep(1)
    {1, %{state | answered: answer, unanswered: 0}}
  catch
    # The server was killed. It may have counted and checkpointed without an answer.
    :exit, _reason ->
      Faults.await(state.server)
      {0, %{state | unanswered: state.unanswered + 1}}
  end

  # If the server was killed since the last answer, its state may be an earlier one.
  defp checkpoint(state) do
    :ok = StateManager.checkpoint(state.server)
    %{state | durable: min(state.durable, state.answered)}
  end

  @impl true
  def audit do
    for server <- @servers do
      Faults.await(server)
      before = GenServer.call(server, :get)
      Faults.restart(@tree, server, [])
      restored = GenServer.call(server, :get)
      right? = is_integer(before) and restored == before
      Record.check!(:state, right?, fn -> {restored, :instead_of, before} end)
    end
  end
end
