defmodule Foundation.TelemetryStatem do
  @moduledoc """
  Windows and batches as a PropEr state machine: random commands on the running area and on the
  model.

  It uses PropEr's functions, because its macros are Erlang's.
  """

  import Foundation.TelemetryCase, only: [kill_server: 1]

  alias Foundation.Telemetry.{Sampler, SampledEvents}
  alias Foundation.TelemetryModel

  @names [[:statem, :one], [:statem, :two], [:statem]]
  # Similar keys, so that a confusion shows.
  @keys [1, 1.0, "1", {1}, [1], %{}, %{a: 1}, %{a: 1.0}, {:_, 1}, :_]
  @bounds [max_windows: 6, max_pending: 7, batch_size: 4]

  def names, do: @names

  def settings, do: [window: 3_600_000, batch_timeout: 3_600_000] ++ @bounds

  def initial_state, do: TelemetryModel.new(@bounds)

  def command(_model) do
    name = :proper_types.elements(@names)
    n = :proper_types.integer(0, 1_000)

    :proper_types.frequency([
      {10, call(:emit, [name, :proper_types.elements(@keys), n])},
      {10, call(:append, [name, n])},
      {2, call(:flush, [name])},
      {1, call(:configure, [name, :proper_types.elements([:always, :never])])},
      {1, call(:kill, [])},
      {3, call(:stats, [])}
    ])
  end

  def precondition(_model, _call), do: true

  def next_state(model, _result, {:call, __MODULE__, name, arguments}) do
    {_events, model} = step(model, name, arguments)
    model
  end

  def postcondition(model, {:call, __MODULE__, :stats, []}, result),
    do: result == TelemetryModel.stats(model)

  def postcondition(model, {:call, __MODULE__, name, arguments}, result) do
    {events, _model} = step(model, name, arguments)
    result == events
  end

  defp step(model, name, _arguments) when name in [:kill, :stats], do: {[], model}
  defp step(model, name, arguments), do: apply(TelemetryModel, name, [model | arguments])

  ## The same on the running area: the events that come out

  def emit(name, key, n) do
    :ok = SampledEvents.emit_event(name, %{n: n}, %{}, dedup_key: key)
    collect()
  end

  def append(name, n) do
    :ok = SampledEvents.emit_batched(name, %{n: n}, %{})
    # Once the processor answers, it has handled all earlier messages.
    :sys.get_state(SampledEvents)
    collect()
  end

  def flush(name) do
    :ok = SampledEvents.flush(name)
    collect()
  end

  def configure(name, strategy) do
    :ok = Sampler.configure_event(name, strategy)
    collect()
  end

  # All earlier messages are handled, so a kill changes nothing visible.
  def kill do
    kill_server(SampledEvents)
    :sys.get_state(SampledEvents)
    collect()
  end

  def stats, do: SampledEvents.stats()

  defp collect do
    receive do
      {[:batched | _] = name, _measurements, %{events: events}} ->
        [{name, Enum.map(events, & &1.measurements.n)} | collect()]

      {[:statem | _] = name, %{n: n}, _metadata} ->
        [{name, n} | collect()]
    after
      0 -> []
    end
  end

  defp call(name, arguments), do: {:call, __MODULE__, name, arguments}
end

for engine <- [:ets, :native] do
  defmodule Module.concat(["Foundation.TelemetryStatem", Macro.camelize("#{engine}_test")]) do
    # Not async: there is one set of telemetry tables.
    use Foundation.TelemetryCase, async: false

    alias Foundation.TelemetryStatem

    @engine engine
    @moduletag timeout: 300_000
    @moduletag settings: TelemetryStatem.settings()
    @moduletag capture_log: true

    unless Code.ensure_loaded?(:proper),
      do: @moduletag(skip: "PropEr (Debian: erlang-proper) is not installed")

    test "every sequence of commands gives the results of the model" do
      names = TelemetryStatem.names()
      listen(names ++ Enum.map(names, &[:batched | &1]))
      stop_supervised!(Foundation.TelemetrySupervisor)

      property =
        :proper.forall(:proper_statem.commands(TelemetryStatem), fn commands ->
          start_supervised!({Foundation.TelemetrySupervisor, engine: @engine})
          {history, model, result} = :proper_statem.run_commands(TelemetryStatem, commands)
          stop_supervised!(Foundation.TelemetrySupervisor)
          for name <- names, do: {received(name), received([:batched | name])}
          if result != :ok, do: explain(commands, history, model, result)
          result == :ok
        end)

      assert :proper.quickcheck(property, [:quiet, numtests: 200, max_size: 60]) == true
    end

    defp explain(commands, history, model, result) do
      IO.puts("""

      commands: #{inspect(commands, limit: :infinity, pretty: true)}
      history: #{inspect(Enum.take(history, -3), limit: :infinity, pretty: true)}
      model: #{inspect(model, limit: :infinity, pretty: true)}
      result: #{inspect(result, limit: :infinity, pretty: true)}
      """)
    end
  end
end
