defmodule Foundation.Timeout do
  @moduledoc """
  A call that did not end within its time, of `:ms` milliseconds.

  `Foundation.Resilience.run/2` returns it as `{:error, %Foundation.Timeout{}}`, and
  `Foundation.Registry.lock/4` raises it.
  """

  defexception [:ms]

  @type t :: %__MODULE__{ms: non_neg_integer}

  @impl true
  def message(%__MODULE__{ms: ms}), do: "the call did not end within #{ms} ms"
end
