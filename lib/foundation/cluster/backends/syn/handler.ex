defmodule Foundation.Cluster.Backends.Syn.Handler do
  @moduledoc false
  # `:syn` has one event handler for all scopes. This one resolves the conflicts of clusters by
  # their rule, and passes everything else to the handler that was there before it. Without one, it
  # does what `:syn` does by default.

  alias Foundation.Cluster.Backends.Syn
  alias Foundation.Cluster.Backends.Syn.Keeper

  @previous {__MODULE__, :previous}

  @doc "Makes this the handler, unless it is."
  @spec install() :: :ok
  def install do
    case Application.get_env(:syn, :event_handler) do
      __MODULE__ ->
        :ok

      previous ->
        :persistent_term.put(@previous, previous)
        Syn.apply(:set_event_handler, [__MODULE__])
    end
  end

  @doc false
  # Runs on the nodes of both processes, with the same result.
  def resolve_registry_conflict(scope, name, one, other) do
    if Keeper.cluster?(scope),
      do: older(one, other),
      else: foreign(scope, name, one, other)
  end

  # The losing process is told by its own replicator.
  defp older(one, other) do
    {pid, _stamp, _time} = Enum.min_by([one, other], fn {pid, stamp, _} -> {stamp, node(pid)} end)
    pid
  end

  defp foreign(scope, name, one, other) do
    case previous(:resolve_registry_conflict, 4) do
      nil -> younger(name, one, other)
      module -> module.resolve_registry_conflict(scope, name, one, other)
    end
  end

  defp younger(name, one, other) do
    [{kept, _, _}, {loser, meta, _}] =
      Enum.sort_by([one, other], fn {pid, _meta, time} -> {time, pid} end, :desc)

    if node(loser) == node(), do: Process.exit(loser, {:syn_resolve_kill, name, meta})
    kept
  end

  for {callback, arity} <- [
        on_process_registered: 5,
        on_registry_process_updated: 5,
        on_registry_process_updated: 6,
        on_process_unregistered: 5,
        on_process_joined: 5,
        on_group_process_updated: 5,
        on_group_process_updated: 6,
        on_process_left: 5
      ] do
    arguments = Macro.generate_arguments(arity, __MODULE__)

    @doc false
    def unquote(callback)(unquote_splicing(arguments)) do
      with module when module != nil <- previous(unquote(callback), unquote(arity)),
           do: apply(module, unquote(callback), unquote(arguments))
    end
  end

  # The handler that was there, if it has the callback.
  defp previous(callback, arity) do
    module = :persistent_term.get(@previous, nil)
    if module != nil and function_exported?(module, callback, arity), do: module
  end
end
