defmodule Foundation.Ancestors do
  @moduledoc false
  # Tells an orderly stop from one that follows a crash further up.
  #
  # A supervisor whose own parent was killed stops its children with `:shutdown`, exactly as in an
  # orderly stop. A process that keeps state for a successor therefore watches the processes above
  # it: if one of them crashed, a successor will come.

  alias Foundation.ExitReason

  defstruct watched: %{}, crashed?: false

  @type t :: %__MODULE__{watched: %{reference => pid}, crashed?: boolean}

  # A process that is not alive any more is about to send its `:DOWN`.
  @wait_ms 5_000

  @doc "Watches the processes that started the caller, one above the other."
  @spec watch() :: t
  def watch, do: %__MODULE__{watched: Map.new(above(self()), &{Process.monitor(&1), &1})}

  # Ends at a process of another node, and at one that is gone.
  defp above(pid) do
    case Process.info(pid, :parent) do
      {:parent, parent} when is_pid(parent) and node(parent) == node() -> [parent | above(parent)]
      _none -> []
    end
  end

  @doc "Takes note of a `:DOWN` message; those of other monitors change nothing."
  @spec down(t, reference, term) :: t
  def down(%__MODULE__{} = ancestors, ref, reason) do
    case Map.pop(ancestors.watched, ref) do
      {nil, _watched} ->
        ancestors

      {_pid, watched} ->
        %{ancestors | watched: watched, crashed?: ancestors.crashed? or crash?(reason)}
    end
  end

  @doc "Returns whether one of them has crashed. Only for a process that is about to end."
  @spec crashed?(t) :: boolean
  def crashed?(%__MODULE__{} = ancestors) do
    ancestors.crashed? or Enum.any?(ancestors.watched, fn {ref, pid} -> crashed?(ref, pid) end)
  end

  # The exit signal that ends the caller may be here before the `:DOWN` of its cause.
  defp crashed?(ref, pid) do
    not Process.alive?(pid) and
      receive do
        {:DOWN, ^ref, :process, ^pid, reason} -> crash?(reason)
      after
        @wait_ms -> true
      end
  end

  # `:noproc`: it ended before it was watched, and the caller lives on.
  defp crash?(:noproc), do: false
  defp crash?(reason), do: not ExitReason.orderly?(reason)
end
