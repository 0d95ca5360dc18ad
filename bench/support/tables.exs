defmodule Bench.Tables do
  @moduledoc false
  # The same entries in Foundation.Registry, in Elixir's Registry and in ETS, for as long as a row
  # takes.

  @ours Bench.Ours
  @theirs Bench.Theirs
  @ets Bench.Ets

  # For module attributes: a call that fetches a name would be timed too.
  def ours, do: @ours
  def theirs, do: @theirs
  def ets, do: @ets

  @doc """
  Starts the tables named in `sides` (`:ours`, `:theirs`, `:ets`), empty, and runs `fun`.

  They are gone when it returns, with all processes in them.
  """
  def with_tables(sides, keys \\ :unique, fun) do
    supervised = for side <- sides, side != :ets, do: spec(side, keys)
    {:ok, supervisor} = Supervisor.start_link(supervised, strategy: :one_for_one)

    if :ets in sides do
      :ets.new(@ets, [:named_table, :public, :set, read_concurrency: true])
    end

    try do
      fun.()
    after
      # Elixir's Registry takes the processes in it along, and this one is not among them.
      Supervisor.stop(supervisor)
      if :ets in sides, do: :ets.delete(@ets)
      :erlang.garbage_collect()
    end
  end

  defp spec(:ours, keys), do: {Foundation.Registry, keys: keys, name: @ours}
  # One partition a scheduler is what its documentation advises where there is much to do,
  # but it makes reads slower; one is its default.
  defp spec(:theirs, keys), do: {Registry, keys: keys, name: @theirs}

  @doc "Registers `key` for the calling process."
  def register(:ours, key, value),
    do: {:ok, _owner} = Foundation.Registry.register(@ours, key, value)

  def register(:theirs, key, value), do: {:ok, _owner} = Registry.register(@theirs, key, value)
  def register(:ets, key, value), do: :ets.insert(@ets, {key, self(), value})

  @doc """
  Starts the tables with `keys` in them, all registered by one process with `value`, and calls `fun` with its pid.
  """
  def with_entries(sides, keys, value, fun) do
    with_tables(sides, fn ->
      # No list of results: it would be as long as the keys.
      owner = owner(fn -> for side <- sides, do: Enum.each(keys, &register(side, &1, value)) end)

      try do
        fun.(owner)
      after
        stop([owner])
      end
    end)
  end

  @doc "Starts a process that runs `fun` and then waits to be stopped; returns when `fun` is done."
  def owner(fun), do: hd(owners([fun]))

  @doc "Starts one process for each function; returns when all are done."
  def owners(funs) do
    caller = self()

    pids =
      for fun <- funs do
        spawn(fn ->
          fun.()
          send(caller, {:ready, self()})
          Process.sleep(:infinity)
        end)
      end

    for pid <- pids do
      receive do
        {:ready, ^pid} -> pid
      end
    end
  end

  @doc "Kills the processes and returns when they are dead."
  def stop(pids) do
    monitors = Enum.map(pids, &Process.monitor/1)
    Enum.each(pids, &Process.exit(&1, :kill))

    for monitor <- monitors do
      receive do
        {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
      end
    end

    :ok
  end
end
