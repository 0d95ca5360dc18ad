defmodule Soak.Faults do
  @moduledoc false
  # Causes faults, one after the other. The seed determines their order.

  alias Soak.{Epoch, Record}

  @pause_ms 60
  @await_ms 10_000

  def new(areas, options) do
    weighted =
      for area <- areas,
          {kind, weight, fun} <- area.faults(options.engine),
          do: {kind, weight, fun}

    all =
      Enum.flat_map(weighted, fn {kind, weight, fun} -> List.duplicate({kind, fun}, weight) end)

    # A random choice that does not depend on the order of the faults.
    :rand.seed(:exsss, options.seed)
    {List.to_tuple(all), :rand.seed_s(:exsss, options.seed)}
  end

  @doc "Chooses a fault and runs it."
  def one({all, random}) do
    {number, random} = :rand.uniform_s(tuple_size(all), random)
    {pause, random} = :rand.uniform_s(2 * @pause_ms, random)
    {kind, fun} = elem(all, number - 1)
    with {:ok, _result} <- Record.guard(fun), do: Record.fault(kind)
    Process.sleep(pause)
    {all, random}
  end

  @doc "Kills the process of this name and returns when it has a successor."
  def kill(name) do
    pid = await(name)
    ref = Process.monitor(pid)
    Process.exit(pid, :kill)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    end

    await(name, pid)
  end

  @doc "Has a supervisor stop and restart a child in order, which ends the domains' epochs."
  def restart(supervisor, child, domains) do
    await(supervisor)

    Epoch.change(domains, fn ->
      :ok = Supervisor.terminate_child(supervisor, child)
      {:ok, _pid} = Supervisor.restart_child(supervisor, child)
    end)
  end

  @doc "Waits for a process of this name other than `not_this`, and returns it."
  def await(name, not_this \\ nil), do: await(name, not_this, @await_ms)

  defp await(name, not_this, left) do
    case Process.whereis(name) do
      pid when pid not in [nil, not_this] ->
        pid

      _none when left > 0 ->
        Process.sleep(1)
        await(name, not_this, left - 1)

      _none ->
        raise "#{inspect(name)} did not come back"
    end
  end
end
