# PropEr is an Erlang application beside OTP. A newer Mix hides applications that are not
# dependencies.
if function_exported?(Mix, :ensure_application!, 1) and
     :code.lib_dir(:proper) == {:error, :bad_name} do
  try do
    apply(Mix, :ensure_application!, [:proper])
  rescue
    Mix.Error -> :not_installed
  end
end

defmodule Foundation.RegistryStatem do
  @moduledoc """
  The registry as a PropEr state machine: random commands on a running registry and on the model.

  It uses PropEr's functions, because its macros are Erlang's.
  """

  alias Foundation.{RegistryModel, RegistrySystem}

  @slots 4
  # Few keys, so that they collide. Some are similar, so that a confusion shows.
  @keys [:a, 1, 1.0, "text", {:_, 1}, {2, 1}, %{}, %{a: 1}]
  @values [0, 1, 2]
  @system {:var, :system}

  def slots, do: @slots

  def initial_state, do: RegistryModel.new(:unique, @slots)

  def command(%RegistryModel{kind: kind}),
    do: :proper_types.frequency(single_steps(kind, @keys) ++ walks())

  @doc "Commands that take effect at one moment, with their weights."
  def single_steps(kind, keys) do
    key = :proper_types.elements(keys)

    of_kind =
      if kind == :unique, do: [{4, call(:update_value, [slot(), key, &increment/1])}], else: []

    of_kind ++
      [
        {10, call(:register, [slot(), key, value()])},
        {4, call(:register_for, [slot(), key, value()])},
        {5, call(:unregister, [slot(), key])},
        {3, call(:unregister_for, [slot(), key])},
        {3, call(:unregister_value, [slot(), key, value()])},
        {3, call(:kill, [slot()])},
        {5, call(:lookup, [key])},
        {2, call(:keys, [slot()])},
        {2, call(:values, [key, slot()])},
        {2, call(:match, [key, value()])}
      ]
  end

  # These take no snapshot, so a concurrent command may take effect during them.
  defp walks do
    [
      {1, call(:lookup_many, [:proper_types.list(key())])},
      {1, call(:select, [])},
      {1, call(:stream, [])},
      {1, call(:kill_owner, [])}
    ]
  end

  def precondition(_model, _call), do: true

  # The worker was dead before the command reached it, so nothing happened.
  def next_state(model, :died, _call), do: model

  # The process registered and died. The model may know the death already.
  def next_state(model, {:ok_of_dead, generation}, {_, _, _, [_system, slot, key, value]}) do
    if RegistryModel.registrant(model, slot) == {slot, generation},
      do: next(model, :register, [slot, key, value]),
      else: model
  end

  def next_state(model, _result, {:call, RegistrySystem, name, [_system | arguments]}) do
    case {name, arguments} do
      {:register_for, arguments} ->
        next(model, :register, arguments)

      {:unregister_for, arguments} ->
        next(model, :unregister, arguments)

      {:kill_owner, []} ->
        model

      {name, arguments}
      when name in [:register, :unregister, :unregister_value, :update_value, :kill] ->
        next(model, name, arguments)

      {_read, _arguments} ->
        model
    end
  end

  defp next(model, name, arguments) do
    {_result, model} = apply(RegistryModel, name, [model | arguments])
    model
  end

  def postcondition(_model, _call, :died), do: true
  def postcondition(_model, _call, {:ok_of_dead, _generation}), do: true

  def postcondition(model, {:call, RegistrySystem, name, [_system | arguments]}, result) do
    case {name, arguments} do
      {:register_for, arguments} ->
        result == expected(model, :register, arguments)

      {:unregister_for, _arguments} ->
        result == :ok

      {:kill_owner, []} ->
        result == :ok

      {:lookup, [key]} ->
        result == RegistryModel.lookup(model, key)

      {:match, [key, value]} ->
        result == matching(model, key, value)

      {:lookup_many, [keys]} ->
        result == Enum.map(keys, &RegistryModel.lookup(model, &1))

      {:keys, [slot]} ->
        Enum.sort(result) == Enum.sort(RegistryModel.keys(model, slot))

      {:values, [key, slot]} ->
        result == RegistryModel.values(model, key, slot)

      {read_all, []} when read_all in [:select, :stream] ->
        Enum.sort(result) == Enum.sort(model.entries)

      {name, arguments} ->
        result == expected(model, name, arguments)
    end
  end

  defp expected(model, name, arguments) do
    {result, _model} = apply(RegistryModel, name, [model | arguments])
    result
  end

  defp matching(model, key, value),
    do: for({who, ^value} <- RegistryModel.lookup(model, key), do: {who, value})

  def increment(value), do: value + 1

  defp call(name, arguments), do: {:call, RegistrySystem, name, [@system | arguments]}
  defp slot, do: :proper_types.integer(1, @slots)
  defp key, do: :proper_types.elements(@keys)
  defp value, do: :proper_types.elements(@values)
end

defmodule Foundation.RegistryParallelStatem do
  @moduledoc """
  The same machine with commands that run concurrently.

  Only single steps are compared. A read of several entries is not a single step: it reads one
  entry, and then checks the owner of another. In between a process may register and another die,
  which no sequence explains. Such reads only run beside the others. The sequential machine compares
  their results.
  """

  alias Foundation.{RegistryModel, RegistryStatem, RegistrySystem}

  # Two keys, so that the branches collide.
  @keys [1, 1.0]

  defdelegate initial_state, to: RegistryStatem
  defdelegate next_state(model, result, call), to: RegistryStatem
  defdelegate precondition(model, call), to: RegistryStatem

  def command(model), do: :proper_types.frequency(RegistryStatem.single_steps(model.kind, @keys))

  def postcondition(%{kind: :duplicate}, {:call, RegistrySystem, name, _}, result)
      when name in [:lookup, :keys, :values, :match],
      do: is_list(result)

  def postcondition(model, call, result), do: RegistryStatem.postcondition(model, call, result)
end

for %{id: engine} <- Foundation.Conformance.Registry.subjects(:ours),
    kind <- [:unique, :duplicate] do
  name = Macro.camelize("#{engine}_#{kind}_test")

  defmodule Module.concat(["Foundation.RegistryStatem", name]) do
    use Foundation.Case, async: true

    alias Foundation.{RegistryModel, RegistryParallelStatem, RegistryStatem, RegistrySystem}

    @engine engine
    @kind kind
    @moduletag timeout: 120_000

    unless Code.ensure_loaded?(:proper),
      do: @moduletag(skip: "PropEr (Debian: erlang-proper) is not installed")

    test "every sequence of commands gives the results of the model" do
      initial = RegistryModel.new(@kind, RegistryStatem.slots())

      property =
        :proper.forall(:proper_statem.commands(RegistryStatem, initial), fn commands ->
          in_system(fn system ->
            {history, model, result} =
              :proper_statem.run_commands(RegistryStatem, commands, system: system)

            if result != :ok, do: explain(commands, history, model, result)
            result == :ok and RegistrySystem.assert_equal(system, model)
          end)
        end)

      assert :proper.quickcheck(property, [:quiet, numtests: 400, max_size: 60]) == true
    end

    test "concurrent commands give the results of some sequential order" do
      initial = RegistryModel.new(@kind, RegistryStatem.slots())

      property =
        :proper.forall(
          :proper_statem.parallel_commands(RegistryParallelStatem, initial),
          fn commands ->
            # A race shows only in some runs, so each plan runs several times.
            Enum.all?(1..5, fn _run -> in_system(&run_parallel(&1, commands)) end)
          end
        )

      assert :proper.quickcheck(property, [:quiet, numtests: 200, max_size: 20]) == true
    end

    defp run_parallel(system, commands) do
      {sequential, parallel, result} =
        :proper_statem.run_parallel_commands(RegistryParallelStatem, commands, system: system)

      if result != :ok, do: explain(commands, {sequential, parallel}, nil, result)
      result == :ok
    end

    defp in_system(fun) do
      registry = unique_name("statem")
      options = [keys: @kind, name: registry, engine: @engine]
      start_supervised!({Foundation.Registry, options}, id: registry)
      system = RegistrySystem.start(registry, RegistryStatem.slots())

      try do
        fun.(system)
      after
        RegistrySystem.stop(system)
        stop_supervised!(registry)
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
