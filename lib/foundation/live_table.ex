defmodule Foundation.LiveTable do
  @moduledoc false
  # Reads what `:ets.info/2` knows of an ETS table that another process may delete meanwhile.
  #
  # `:ets.info/2` answers `:undefined` for a table that is gone, where every other function of ETS
  # raises. That atom would be taken for a size: it compares greater than any number.

  @doc "Returns the number of objects, or raises what ETS raises for a table that is gone."
  @spec size(:ets.table()) :: non_neg_integer
  def size(table), do: info(table, :size)

  @doc "Returns the words that a table takes, or raises what ETS raises for one that is gone."
  @spec memory(:ets.table()) :: non_neg_integer
  def memory(table), do: info(table, :memory)

  defp info(table, item) do
    case :ets.info(table, item) do
      :undefined ->
        # Raises, unless a table of this name has been created since.
        _ = :ets.first(table)
        info(table, item)

      number ->
        number
    end
  end
end
