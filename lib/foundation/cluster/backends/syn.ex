defmodule Foundation.Cluster.Backends.Syn do
  @moduledoc false
  # Names are claimed in a `:syn` scope that has the cluster's name, with the time of the
  # registration as metadata. So they are found by `:syn.lookup/2`, and `Syn.Handler` resolves
  # conflicts there by the cluster's rule.
  #
  # The package is optional. `call/2` and `apply/2` are the only ways to it, so that this compiles
  # without warnings where it is absent.

  @behaviour Foundation.Cluster.Backend

  import Kernel, except: [apply: 2]

  alias Foundation.Cluster.Backends.Syn.Keeper
  alias Foundation.Cluster.Config

  # The processes of `:syn` are restarted within microseconds.
  @patience_ms 5_000
  @pause_ms 2

  @impl true
  def available do
    cond do
      not Code.ensure_loaded?(:syn) ->
        {:error,
         "the engine :syn needs the package :syn: " <>
           ~s|add {:syn, "~> 3.4 and >= 3.4.1"} to the dependencies of your application|}

      Process.whereis(:syn_sup) == nil ->
        {:error, "the engine :syn needs the application :syn, which is not started"}

      true ->
        :ok
    end
  end

  @impl true
  def children(config), do: [{Keeper, config}]

  @impl true
  def claim(config, key, pid, stamp) do
    case call(:lookup, [config.name, key]) do
      {^pid, _stamp} -> :ok
      {other, _stamp} -> {:error, {:already_registered, other}}
      :undefined -> register(config, key, pid, stamp)
    end
  end

  defp register(config, key, pid, stamp) do
    case call(:register, [config.name, key, pid, stamp]) do
      :ok -> :ok
      # It has been registered, or has ended, since it was looked up.
      {:error, :taken} -> claim(config, key, pid, stamp)
      # The replica says what becomes of a dead process.
      {:error, :not_alive} -> :ok
      {:error, :not_self} -> strict!()
    end
  end

  @spec strict!() :: no_return
  defp strict! do
    raise ArgumentError,
          "Foundation.Cluster registers other processes than the caller: " <>
            ":syn must not be in strict mode"
  end

  @impl true
  def release(config, key, pid) do
    with {^pid, _stamp} <- call(:lookup, [config.name, key]),
         do: call(:unregister, [config.name, key])

    :ok
  end

  @impl true
  def lost(config, key, loser, _winner), do: release(config, key, loser)

  @impl true
  def keeps_names?, do: true

  @impl true
  def decides?, do: false

  @doc "Claims the names of this node again after `:syn` has forgotten them."
  @spec claim_again(Config.t(), [{term, pid, integer | :lost}]) :: :ok
  def claim_again(config, names) do
    # A name that another node has meanwhile is a conflict of the replicas, which resolve it.
    for {key, pid, stamp} <- names, is_integer(stamp), do: claim(config, key, pid, stamp)
    :ok
  end

  @doc "Calls a function of `:syn`."
  @spec apply(atom, [term]) :: term
  def apply(function, arguments), do: Kernel.apply(:syn, function, arguments)

  # Again while its processes are being restarted.
  defp call(function, arguments), do: call(function, arguments, now() + @patience_ms)

  defp call(function, arguments, deadline) do
    apply(function, arguments)
  rescue
    # Its tables of names, or the scope in them, are not there. A scope that is not added by
    # `Keeper` within the time is a defect, and raises.
    error in [ErlangError, ArgumentError] ->
      if now() > deadline, do: reraise(error, __STACKTRACE__)
      again(function, arguments, deadline)
  catch
    :exit, {_reason, {:gen_server, :call, _arguments}} = reason ->
      if now() > deadline, do: exit(reason)
      again(function, arguments, deadline)
  end

  defp again(function, arguments, deadline) do
    Process.sleep(@pause_ms)
    call(function, arguments, deadline)
  end

  defp now, do: System.monotonic_time(:millisecond)
end
