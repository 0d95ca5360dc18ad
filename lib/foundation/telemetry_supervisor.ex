defmodule Foundation.TelemetrySupervisor do
  @moduledoc """
  Supervises the telemetry area: its tables, the span process (with a monitor in the ETS engine)
  and the batch processor.
  """

  use Supervisor

  alias Foundation.{ChildStart, Predecessor}
  alias Foundation.Telemetry.{SampledEvents, Span, Tables}

  @doc false
  def start_link(options) do
    # Not in init/1, which a code change calls in the supervisor that runs.
    Predecessor.await_gone([Tables, Span.Monitor, Span, SampledEvents])
    engine = Keyword.get_lazy(options, :engine, &Foundation.engine/0)
    Supervisor.start_link(__MODULE__, engine, name: __MODULE__)
  end

  @impl true
  def init(engine) do
    # The native library monitors processes by itself.
    monitors = if engine == :ets, do: [Span.Monitor], else: []
    children = [{Tables, engine: engine}] ++ monitors ++ [Span, SampledEvents]

    # rest_for_one: what comes later works on the tables of the first, and finds out anew what
    # is in them when they may have changed. The batch processor comes last: it knows nothing that
    # spans need, and when it stops in order, as the first, tables and spans are still there.
    # A restart costs microseconds and loses nothing, as the state is in the tables; giving up
    # would take everything that emits events down with it. So only a crash loop ends it.
    children
    |> Enum.map(&ChildStart.again/1)
    |> Supervisor.init(strategy: :rest_for_one, max_restarts: 100, max_seconds: 5)
  end
end
