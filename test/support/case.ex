defmodule Foundation.Case do
  @moduledoc """
  The case template of this project: waiting, and processes under the control of a test.

  A *worker* is a process that runs the functions it is given, one after the other, until it is
  killed or stopped. It stands for a registrant whose life the test controls. It has no links, so
  the test can observe its death. It dies with the test.
  """

  use ExUnit.CaseTemplate

  using do
    quote do
      import Foundation.Case
      import Foundation.Eventually
    end
  end

  @doc "Starts a worker. It ends when its parent ends."
  @spec start_worker() :: pid
  def start_worker do
    parent = self()

    spawn(fn ->
      ref = Process.monitor(parent)
      work(ref)
    end)
  end

  @doc "Starts `count` workers."
  @spec start_workers(non_neg_integer) :: [pid]
  def start_workers(count), do: for(_index <- 1..count//1, do: start_worker())

  @doc """
  The number of processes that hold a lock or wait for it, as its server knows. A process that is
  only in the lock's table may be overtaken.
  """
  @spec queued(registry :: atom, term) :: non_neg_integer
  def queued(registry, lock_key) do
    case :sys.get_state(Foundation.Registry.Locks).locks do
      %{{^registry, ^lock_key} => {_holder, queue}} -> 1 + :gb_sets.size(queue)
      %{} -> 0
    end
  end

  @doc "Runs `fun` in `worker` and returns its result. If it raises, this function raises the same."
  @spec run(pid, (() -> result)) :: result when result: term
  def run(worker, fun) do
    case run_in_mortal(worker, fun) do
      {:returned, result} -> result
      {:ended, reason} -> ExUnit.Assertions.flunk("worker ended: #{inspect(reason)}")
    end
  end

  @doc "Works like `run/2`, for a worker that may end meanwhile."
  @spec run_in_mortal(pid, (() -> result)) :: {:returned, result} | {:ended, reason :: term}
        when result: term
  def run_in_mortal(worker, fun) when is_function(fun, 0) do
    ref = Process.monitor(worker)
    send(worker, {:run, self(), ref, fun})

    receive do
      {^ref, :returned, result} ->
        Process.demonitor(ref, [:flush])
        {:returned, result}

      {^ref, :raised, kind, reason, stacktrace} ->
        Process.demonitor(ref, [:flush])
        :erlang.raise(kind, reason, stacktrace)

      {:DOWN, ^ref, :process, ^worker, reason} ->
        {:ended, reason}
    end
  end

  @doc "Kills a process and returns when it is dead, so that `Process.alive?/1` is false."
  @spec kill(pid, term) :: :ok
  def kill(pid, reason \\ :kill) do
    ref = Process.monitor(pid)
    Process.exit(pid, reason)

    receive do
      {:DOWN, ^ref, :process, ^pid, _reason} -> :ok
    after
      30_000 -> ExUnit.Assertions.flunk("#{inspect(pid)} did not die of #{inspect(reason)}")
    end
  end

  @doc "The pid of a dead process."
  @spec dead_pid() :: pid
  def dead_pid do
    pid = start_worker()
    kill(pid)
    pid
  end

  @doc "The pid of a process on a node that was never connected."
  @spec foreign_pid(atom, non_neg_integer) :: pid
  def foreign_pid(node \\ :nobody@nowhere, serial \\ 7) do
    name = Atom.to_string(node)

    # The external term format's NEW_PID_EXT: the node's name, then id, serial and creation.
    :erlang.binary_to_term(
      <<131, 88, 119, byte_size(name), name::binary, 100::32, serial::32, 1::32>>
    )
  end

  @doc "A name that no other test uses."
  @spec unique_name(String.t()) :: atom
  def unique_name(prefix), do: :"#{prefix}_#{System.unique_integer([:positive])}"

  defp work(parent_ref) do
    receive do
      {:run, from, ref, fun} ->
        send(from, attempt(ref, fun))
        work(parent_ref)

      {:DOWN, ^parent_ref, :process, _pid, _reason} ->
        :ok
    end
  end

  defp attempt(ref, fun) do
    {ref, :returned, fun.()}
  catch
    kind, reason -> {ref, :raised, kind, reason, __STACKTRACE__}
  end
end
