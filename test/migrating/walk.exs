# Walks an application through the five stages and back, and prints what each looks like from
# outside. Run it with
#
#     mix run test/migrating/walk.exs
#
# guides/migrating.md explains what it prints; a test compares the two.

unless Code.ensure_loaded?(Fleet.After), do: Code.require_file("after.ex", __DIR__)

defmodule Fleet.Walk do
  alias Foundation.{FeatureFlags, HealthCheck, Migration}

  @agents ~w(planner coder critic)

  def run do
    handlers = silence()
    :ok = :logger.add_handler(__MODULE__, __MODULE__, %{level: :info, config: %{walk: self()}})
    events = [[:fleet, :overload], [:foundation, :span, :abandoned]]
    :ok = :telemetry.attach_many(__MODULE__, events, &__MODULE__.tell/4, self())
    {:ok, 1} = Migration.to_stage(1)
    agents = for name <- @agents, do: Fleet.After.start_agent(name)

    try do
      walk()
    after
      for pid <- agents, do: Process.exit(pid, :kill)
      :telemetry.detach(__MODULE__)
      :logger.remove_handler(__MODULE__)
      for {id, level} <- handlers, do: :logger.set_handler_config(id, :level, level)
      :ok = FeatureFlags.reset_all()
    end
  end

  defp walk do
    look()

    for _stage <- 2..5 do
      {:ok, _stage} = Migration.advance()
      look()
    end

    forbidden()
    {:ok, 3} = Migration.rollback(3)
    look()
    {:ok, 1} = Migration.emergency_rollback("the walk is over")
    look()
  end

  # The console would print between the lines here.
  defp silence do
    for %{id: id, level: level} <- :logger.get_handler_config() do
      :logger.set_handler_config(id, :level, :none)
      {id, level}
    end
  end

  # Receives the log lines, as an operator has configured them, and the events.
  def log(%{level: :info, msg: {:string, text}, meta: meta}, %{config: %{walk: walk}}) do
    request = if id = meta[:request_id], do: "request_id=#{id} ", else: ""
    send(walk, {:line, "#{request}#{text}"})
  end

  def log(_other, _config), do: :ok

  def tell([:fleet, :overload], _measurements, _metadata, walk), do: send(walk, :overload)
  def tell(_abandoned, _measurements, span, walk), do: send(walk, {:abandoned, span.span_id})

  defp look do
    %{stage: stage} = Migration.status()
    IO.puts("stage #{stage}, health #{inspect(HealthCheck.status())}")

    IO.puts(
      "  agents that another process finds:    #{elsewhere(&found/0)} of #{length(@agents)}"
    )

    IO.puts("  a line of the log:                    #{line()}")
    IO.puts("  span of a process that dies:          #{abandoned()}")
    IO.puts("  events, where 4 processes repeat one: #{repeated()}")
  end

  defp found, do: Enum.count(@agents, &match?({:ok, _pid}, Fleet.After.agent(&1)))

  defp line do
    Fleet.After.request("r-1", fn -> Fleet.After.work("planner") end)

    receive do
      {:line, line} -> line
    after
      1_000 -> "none"
    end
  end

  defp abandoned do
    id = elsewhere(fn -> Foundation.Telemetry.Span.start_span("unfinished") end)

    receive do
      {:abandoned, ^id} -> "reported"
    after
      500 -> "lost"
    end
  end

  # Emits an event that is new each time, and the same in all processes.
  defp repeated do
    look = %{look: make_ref()}

    for _process <- 1..4 do
      elsewhere(fn -> for _again <- 1..10, do: Fleet.After.notify(:overload, look) end)
    end

    told(0)
  end

  defp told(count) do
    receive do
      :overload -> told(count + 1)
    after
      0 -> count
    end
  end

  defp forbidden do
    IO.puts("the flag of stage 2 is turned off while the process dictionary is forbidden")
    :ok = FeatureFlags.disable(:use_ets_agent_registry)

    try do
      Fleet.After.start_agent("late")
    rescue
      error -> IO.puts("  " <> Exception.message(error))
    end

    :ok = FeatureFlags.enable(:use_ets_agent_registry)
  end

  defp elsewhere(fun), do: fun |> Task.async() |> Task.await(30_000)
end

Fleet.Walk.run()
