defmodule Foundation.TelemetryCase do
  @moduledoc false
  # Tests over the telemetry tables. There is one set of them for the application, so these
  # are not async: each starts its own tree, on the engine that its `:engine` tag names and
  # with the settings of its `:settings` tag, in place of the application's.

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

  @doc "Runs `fun` with 1 to `n` in as many processes, which start together; their results."
  def together(n, fun) do
    tasks = for i <- 1..n, do: Task.async(fn -> receive(do: (:go -> fun.(i))) end)
    Enum.each(tasks, &send(&1.pid, :go))
    Task.await_many(tasks, 60_000)
  end

  @doc "Kills a registered process and waits for its successor, which it returns."
  def kill_server(name) do
    old = Process.whereis(name)
    Foundation.Case.kill(old)

    eventually(fn ->
      new = Process.whereis(name)
      new != old && new
    end)
  end

  @doc "Events left in the test's mailbox, of one name, oldest first."
  def received(name) do
    receive do
      {^name, measurements, metadata} -> [{measurements, metadata} | received(name)]
    after
      0 -> []
    end
  end

  @doc "What became of the events of one name."
  def counts(name), do: name |> SampledEvents.stats() |> Map.drop([:windows, :evicted])

  @doc "Whether each event that was offered is counted as one outcome."
  def balanced?(stats) do
    stats.offered ==
      stats.emitted + stats.suppressed + stats.sampled_out + stats.dropped + stats.pending
  end
end
