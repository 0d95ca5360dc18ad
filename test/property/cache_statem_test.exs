defmodule Foundation.CacheStatem do
  @moduledoc """
  The cache as a PropEr state machine: random commands on a running cache and on the model.

  It uses PropEr's functions, because its macros are Erlang's.
  """

  alias Foundation.{CacheModel, CacheSystem}

  @slots 4
  # Few keys, so that they collide. Some are similar, so that a confusion shows.
  @keys [1, 1.0, %{a: 1}]
  @system {:var, :system}

  def initial_state, do: CacheModel.new(@slots)

  def command(model) do
    :proper_types.frequency(
      single_steps(@keys, outcome()) ++
        slot_steps(model) ++
        [{2, call(:stats, [])}, {1, call(:kill_owner, [])}]
    )
  end

  @doc "Commands that take effect at one moment."
  def single_steps(keys, outcome) do
    key = :proper_types.elements(keys)

    [
      {4, call(:get, [key])},
      {4, call(:put, [key, value()])},
      {4, call(:delete, [key])},
      {1, call(:clear, [])},
      {4, call(:fetch, [key, outcome])}
    ]
  end

  # Each says what it expects, so that the running cache can be waited for.
  defp slot_steps(model) do
    starts =
      for {slot, :idle} <- model.slots,
          key <- @keys,
          do: {2, call(:start, [slot, key, CacheModel.expected(model, key)])}

    finishes =
      for {slot, {:loads, _key, _lease?}} <- model.slots,
          do: {3, call(:finish, [slot, outcome(), model.queues[slot]])}

    kills =
      for {slot, _state} <- model.slots,
          CacheModel.killable?(model, slot),
          do: {2, call(:kill, [slot, killed(model, slot)])}

    starts ++ finishes ++ kills
  end

  defp killed(model, slot) do
    {expected, _model} = CacheModel.kill(model, slot)
    expected
  end

  # While another loads it, a fetch would wait, which nobody ends here.
  def precondition(model, {:call, _, :fetch, [_system, key, _outcome]}),
    do: not match?({:waits, _loader}, CacheModel.expected(model, key))

  def precondition(model, {:call, _, :start, [_system, slot, key, expected]}),
    do: model.slots[slot] == :idle and CacheModel.expected(model, key) == expected

  def precondition(model, {:call, _, :finish, [_system, slot, _outcome, waiting]}),
    do: match?({:loads, _, _}, model.slots[slot]) and model.queues[slot] == waiting

  def precondition(model, {:call, _, :kill, [_system, slot, expected]}),
    do: CacheModel.killable?(model, slot) and killed(model, slot) == expected

  def precondition(_model, _call), do: true

  def next_state(model, _result, call) do
    {_result, model} = step(model, call)
    model
  end

  def postcondition(model, call, result) do
    {expected, _model} = step(model, call)
    result == expected
  end

  defp step(model, {:call, CacheSystem, name, [_system | arguments]}) do
    case {name, arguments} do
      {:stats, []} -> {CacheModel.stats(model), model}
      {:kill_owner, []} -> {true, model}
      {:start, [slot, key, _expected]} -> CacheModel.start(model, slot, key)
      {:finish, [slot, outcome, _waiting]} -> CacheModel.finish(model, slot, outcome)
      {:kill, [slot, _expected]} -> CacheModel.kill(model, slot)
      {name, arguments} -> apply(CacheModel, name, [model | arguments])
    end
  end

  defp call(name, arguments), do: {:call, CacheSystem, name, [@system | arguments]}

  defp value, do: :proper_types.elements([0, 1, 2, nil, :large])

  defp outcome do
    :proper_types.elements([
      {:ok, 0},
      {:ok, 1},
      {:ok, nil},
      {:ok, :large},
      {:ok, 3, ttl: 0},
      {:error, 4},
      {:raise, 5}
    ])
  end
end

defmodule Foundation.CacheParallelStatem do
  @moduledoc """
  The same machine with commands that run concurrently: no load is held, and nobody counts.

  Each load gives something that is kept. Callers that share a load which leaves nothing have no
  sequence: one after the other, each of them would load.
  """

  alias Foundation.CacheStatem

  # Two keys, so that the branches collide.
  @keys [1, 1.0]

  defdelegate initial_state, to: CacheStatem
  defdelegate next_state(model, result, call), to: CacheStatem
  defdelegate precondition(model, call), to: CacheStatem
  defdelegate postcondition(model, call, result), to: CacheStatem

  def command(_model) do
    outcome = :proper_types.elements([{:ok, 0}, {:ok, 1}, {:ok, 2}, {:error, 3}])
    :proper_types.frequency(CacheStatem.single_steps(@keys, outcome))
  end
end

for engine <- [:ets, :native] do
  defmodule Module.concat(["Foundation.CacheStatem", Macro.camelize("#{engine}_test")]) do
    use Foundation.Case, async: true

    alias Foundation.{Cache, CacheParallelStatem, CacheStatem, CacheSystem}

    @engine engine
    @moduletag timeout: 300_000
    @moduletag capture_log: true

    unless Code.ensure_loaded?(:proper),
      do: @moduletag(skip: "PropEr (Debian: erlang-proper) is not installed")

    test "every sequence of commands gives the results of the model" do
      property =
        :proper.forall(:proper_statem.commands(CacheStatem), fn commands ->
          in_system(fn system ->
            {history, model, result} =
              :proper_statem.run_commands(CacheStatem, commands, system: system)

            if result != :ok, do: explain(commands, Enum.take(history, -3), model, result)
            result == :ok
          end)
        end)

      assert :proper.quickcheck(property, [:quiet, numtests: 300, max_size: 50]) == true
    end

    test "concurrent commands give the results of some sequential order" do
      property =
        :proper.forall(:proper_statem.parallel_commands(CacheParallelStatem), fn commands ->
          # A race shows only in some runs, so each plan runs several times.
          Enum.all?(1..5, fn _run -> in_system(&run_parallel(&1, commands)) end)
        end)

      assert :proper.quickcheck(property, [:quiet, numtests: 150, max_size: 20]) == true
    end

    defp run_parallel(system, commands) do
      {sequential, parallel, result} =
        :proper_statem.run_parallel_commands(CacheParallelStatem, commands, system: system)

      if result != :ok, do: explain(commands, {sequential, parallel}, nil, result)
      result == :ok
    end

    defp in_system(fun) do
      cache = unique_name("statem")
      options = [name: cache, engine: @engine] ++ CacheSystem.options()
      start_supervised!({Cache, options}, id: cache)
      system = CacheSystem.start(cache)

      try do
        fun.(system)
      after
        CacheSystem.stop(system)
        stop_supervised!(cache)
      end
    end

    defp explain(commands, history, model, result) do
      IO.puts("""

      commands: #{inspect(commands, limit: :infinity, pretty: true)}
      history: #{inspect(history, limit: :infinity, pretty: true)}
      model: #{inspect(model, limit: :infinity, pretty: true)}
      result: #{inspect(result, limit: :infinity, pretty: true)}
      """)
    end
  end
end
