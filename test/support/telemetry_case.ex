defmodule Foundation.TelemetryCase do
  @moduledoc false
  # Tests of the telemetry tables. The application has one set of them, so these tests are not
  # async. Each starts its own tree in place of the application's, on the engine of its `:engine`
  # tag and with the settings of its `:settings` tag.

  use ExUnit.CaseTemplate

  import Foundation.Eventually

  alias Foundation.Telemetry.SampledEvents
  alias Foundation.TelemetrySupervisor, as: Tree

  using do
    quote do
      import Foundation.Eventually
      import Foundation.TelemetryCase
    end
  end

  setup context do
    start_tree(context[:engine] || Foundation.engine(), context[:settings] || [])
  end

  @doc "Starts the telemetry tree on an engine, in place of the application's."
  def start_tree(engine, settings \\ []) do
    :ok = Supervisor.terminate_child(Foundation.Supervisor, Tree)
    before = Application.get_env(:foundation, SampledEvents, [])
    Application.put_env(:foundation, SampledEvents, settings)

    on_exit(fn ->
      Application.put_env(:foundation, SampledEvents, before)
      {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, Tree)
    end)

    start_supervised!({Tree, engine: engine})
    :ok
  end

  @doc "Sends `{name, measurements, metadata}` to the test for each event of these names."
  def listen(names) do
    test = self()
    id = {__MODULE__, make_ref()}
    :ok = :telemetry.attach_many(id, names, &__MODULE__.forward/4, test)
    on_exit(fn -> :telemetry.detach(id) end)
  end

  @doc false
  def forward(name, measurements, metadata, test), do: send(test, {name, measurements, metadata})

  @doc "Runs `fun` with 1 to `n` in as many processes, which start together. Returns their results."
  def together(n, fun) do
    tasks = for i <- 1..n, do: Task.async(fn -> receive(do: (:go -> fun.(i))) end)
    Enum.each(tasks, &send(&1.pid, :go))
    Task.await_many(tasks, 60_000)
  end

  @doc "Kills a registered process, waits for its successor, and returns it."
  def kill_server(name) do
    old = Process.whereis(name)
    Foundation.Case.kill(old)

    eventually(fn ->
      new = Process.whereis(name)
      new != old && new
    end)
  end

  @doc "Events of one name in the test's mailbox, oldest first."
  def received(name) do
    receive do
      {^name, measurements, metadata} -> [{measurements, metadata} | received(name)]
    after
      0 -> []
    end
  end

  @doc "The counts of the outcomes of one event name."
  def counts(name), do: name |> SampledEvents.stats() |> Map.drop([:windows, :evicted])

  @doc "Whether each offered event is counted under exactly one outcome."
  def balanced?(stats) do
    stats.offered ==
      stats.emitted + stats.suppressed + stats.sampled_out + stats.dropped + stats.pending
  end
end
