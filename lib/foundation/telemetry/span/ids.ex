defmodule Foundation.Telemetry.Span.Ids do
  @moduledoc false
  # Ids where no native engine makes them. Not from `:rand`, which writes to the process
  # dictionary: from what is unique in this node and, with its name and clock, among nodes.

  @doc """
  A random id of so many bytes, up to 16, in lower-case hex and never all zero.
  """
  @spec new(1..16) :: String.t()
  def new(bytes) do
    unique = {node(), self(), make_ref(), :os.system_time(), :erlang.unique_integer()}

    id = binary_part(:erlang.md5(:erlang.term_to_binary(unique)), 0, bytes)
    if id == :binary.copy(<<0>>, bytes), do: new(bytes), else: Base.encode16(id, case: :lower)
  end
end
