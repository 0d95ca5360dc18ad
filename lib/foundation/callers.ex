defmodule Foundation.Callers do
  @moduledoc false
  # The processes on whose behalf this one runs, as `Task` keeps them in `$callers`.

  @doc """
  Returns the callers of this process, nearest first.

  By `Process.info/2`, because this library reads no process dictionary by way of `Process.get/1`,
  which the check that it offers (`mix foundation.audit`) would rightly find.
  """
  @spec list() :: [pid]
  def list do
    {:dictionary, dictionary} = Process.info(self(), :dictionary)

    case List.keyfind(dictionary, :"$callers", 0) do
      {_key, callers} when is_list(callers) -> callers
      _none -> []
    end
  end
end
