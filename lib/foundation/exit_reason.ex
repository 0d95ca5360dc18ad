defmodule Foundation.ExitReason do
  @moduledoc false

  @doc """
  Returns whether the reason is an orderly stop, by the supervisor or by the process itself, and
  not a crash. After an orderly stop there may be no successor.
  """
  @spec orderly?(term) :: boolean
  def orderly?(:normal), do: true
  def orderly?(:shutdown), do: true
  def orderly?({:shutdown, _reason}), do: true
  def orderly?(_crash), do: false
end
