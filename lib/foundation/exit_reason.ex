defmodule Foundation.ExitReason do
  @moduledoc false

  @doc """
  Whether a process that exits for this reason was stopped, by its supervisor or by itself, and did
  not crash: then there may be no successor to leave anything to.
  """
  @spec orderly?(term) :: boolean
  def orderly?(:normal), do: true
  def orderly?(:shutdown), do: true
  def orderly?({:shutdown, _reason}), do: true
  def orderly?(_crash), do: false
end
