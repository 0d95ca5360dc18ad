defmodule Soak.Library do
  @moduledoc false
  # Reloads the module of the stubs while all areas call it, and sends every process messages, casts
  # and calls that it does not know.

  @behaviour Soak.Area

  alias Foundation.{Native, Strays}
  alias Soak.Record

  # The soak's own servers get messages only.
  @trees [Foundation.Supervisor, Soak.Registry.Tree, Soak.EventLog.Tree]
  @servers [Soak.State.Tree]

  @sys_ms 60_000

  @impl true
  def name, do: "library"

  @impl true
  def invariants do
    [library: "calls without the library", strays: "processes ended by a stray message"]
  end

  @impl true
  def open(_options), do: :persistent_term.put(__MODULE__, Native.library_version())

  @impl true
  def crew, do: [%{count: 1, init: & &1, step: &call/1}]

  defp call(index) do
    check_library()
    Process.sleep(1)
    {1, index}
  end

  defp check_library do
    {version, expected} = {Native.library_version(), :persistent_term.get(__MODULE__)}
    Record.check!(:library, version == expected, fn -> {version, :instead_of, expected} end)
  end

  @impl true
  def faults(:native), do: [{"library's module reloaded", 2, &reload/0} | faults(:ets)]
  def faults(:ets), do: [{"stray messages to every process", 2, &stray/0}]

  defp reload do
    :code.purge(Native)
    :code.delete(Native)
    check_library()
  end

  defp stray do
    for tree <- @trees, process <- processes(tree), do: stray(process, Strays.terms(), true)
    for tree <- @servers, process <- processes(tree), do: stray(process, Strays.terms(), false)
  end

  # The fault before this one may have killed the supervisor.
  defp processes(tree) do
    Strays.processes(tree)
  catch
    :exit, _gone -> []
  end

  defp stray({ids, pid}, terms, all?) do
    ref = Process.monitor(pid)
    Enum.each(terms, &send(pid, &1))

    if all? and not Strays.supervisor?(pid) do
      Enum.each(terms, &GenServer.cast(pid, &1))
      answer = catch_exit(fn -> GenServer.call(pid, :stray, @sys_ms) end)
      Record.check!(:strays, answer in [{:error, :unknown_call}, :exit], fn -> {ids, answer} end)
    end

    catch_exit(fn -> :sys.get_state(pid, @sys_ms) end)
    Process.demonitor(ref)

    receive do
      {:DOWN, ^ref, :process, ^pid, reason} ->
        # The fault before this one stopped or killed it.
        ended? = reason in [:normal, :shutdown, :killed, :noproc]
        Record.check!(:strays, ended?, fn -> {ids, reason} end)
    after
      0 -> Record.check!(:strays, true, fn -> nil end)
    end
  end

  defp catch_exit(fun) do
    fun.()
  catch
    :exit, _reason -> :exit
  end

  @impl true
  def audit, do: :ok
end
