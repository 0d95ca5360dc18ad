Code.require_file("support/tables.exs", __DIR__)

defmodule Bench.AgentRegistry do
  @moduledoc false
  # Registration of agents against a GenServer that an application would write without this library.

  alias Bench.{Row, Tables}

  defmodule Server do
    @moduledoc false
    # A process that monitors the registered processes and keeps them in ETS.
    use GenServer

    def start_link(table), do: GenServer.start_link(__MODULE__, table)
    def register(server, id, pid), do: GenServer.call(server, {:register, id, pid})

    @impl true
    def init(table) do
      :ets.new(table, [:named_table, :protected, read_concurrency: true])
      {:ok, %{table: table, monitors: %{}}}
    end

    @impl true
    def handle_call({:register, id, pid}, _from, state) do
      if :ets.insert_new(state.table, {id, pid, %{}}) do
        monitor = Process.monitor(pid)
        {:reply, :ok, put_in(state.monitors[monitor], id)}
      else
        {:reply, {:error, :already_registered}, state}
      end
    end

    @impl true
    def handle_info({:DOWN, monitor, :process, _pid, _reason}, state) do
      {id, monitors} = Map.pop(state.monitors, monitor)
      :ets.delete(state.table, id)
      {:noreply, %{state | monitors: monitors}}
    end
  end

  def rows do
    [
      %Row{
        name: :register_agent,
        what: "register an agent",
        theirs: "GenServer and ETS",
        growth: [1_000, 10_000, 100_000],
        fills?: true,
        sizes: [10_000],
        quick: [500],
        target: {:at_least, 3},
        run: &register_agent/2
      }
    ]
  end

  # One process registers `size` other processes. Each round starts new ones, after the last have
  # died.
  defp register_agent(size, context) do
    table = Bench.Agents
    {:ok, server} = Server.start_link(table)

    cost = fn register, count, round ->
      pids = for _n <- 1..size, do: spawn(fn -> Process.sleep(:infinity) end)
      agents = Enum.with_index(pids, fn pid, n -> {{round, n}, pid} end)
      before = count.()

      taken = Bench.each(agents, fn {id, pid} -> :ok = register.(id, pid) end)

      Bench.check!("count", count.() - before, size)
      Tables.stop(pids)
      Bench.spin_until(fn -> count.() == before end)
      taken
    end

    ours =
      &cost.(
        fn id, pid -> Foundation.AgentRegistry.register_agent(id, pid) end,
        fn -> Foundation.AgentRegistry.count() end,
        &1
      )

    theirs =
      &cost.(
        fn id, pid -> Server.register(server, id, pid) end,
        fn -> :ets.info(table, :size) end,
        &1
      )

    result = Bench.pinned(fn -> Bench.pair(context, ours, theirs) end)
    GenServer.stop(server)
    result
  end
end
