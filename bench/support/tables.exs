defmodule Bench.Tables do
  @moduledoc false
  # Runs a row with the same entries in Foundation.Registry, in Elixir's Registry and in ETS.

  @ours Bench.Ours
  @theirs Bench.Theirs
  @ets Bench.Ets

  # For module attributes: a call that fetches a name would be timed too.
  def ours, do: @ours
  def theirs, do: @theirs
  def ets, do: @ets

  @doc """
  Starts the tables named in `sides` (`:ours`, `:theirs`, `:ets`), empty, and runs `fun`.

  The tables and all processes in them are gone when it returns.
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
      # Elixir's Registry kills its processes when it stops, and this process is not one of them.
      Supervisor.stop(supervisor)
      if :ets in sides, do: :ets.delete(@ets)
      :erlang.garbage_collect()
    end
  end

  defp spec(:ours, keys), do: {Foundation.Registry, keys: keys, name: @ours}
  # Its documentation advises one partition per scheduler under many writes. That makes reads
  # slower; the default is one.
  defp spec(:theirs, keys), do: {Registry, keys: keys, name: @theirs}

  @doc "Registers `key` for the calling process."
  def register(:ours, key, value),
    do: {:ok, _owner} = Foundation.Registry.register(@ours, key, value)

  def register(:theirs, key, value), do: {:ok, _owner} = Registry.register(@theirs, key, value)
  def register(:ets, key, value), do: :ets.insert(@ets, {key, self(), value})

  @doc """
  Starts the tables with `keys`, which one process registers with `value`. Calls `fun` with its pid.
  """
  def with_entries(sides, keys, value, fun) do
    with_tables(sides, fn ->
      # Builds no list of results: it would be as long as the keys.
      owner = owner(fn -> for side <- sides, do: Enum.each(keys, &register(side, &1, value)) end)

      try do
        fun.(owner)
      after
        stop([owner])
      end
    end)
  end

  @doc "Starts a process that runs `fun` and waits to be stopped. Returns when `fun` is done."
  def owner(fun), do: hd(owners([fun]))

  @doc "Starts one process for each function. Returns when all are done."
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
