defmodule Foundation.Cache.Cells do
  @moduledoc false
  # The counters of one cache. They outlive its owner.

  @cells [
    :hits,
    :misses,
    :loads,
    :load_errors,
    :stale_hits,
    :evicted,
    :expired,
    :rejected,
    :entries,
    :bytes,
    # An entry of an earlier epoch has expired. So has a lease.
    :epoch,
    # The last place in the order of entries that was given.
    :place,
    # Whether this node has ever invalidated something on others.
    :wrote
  ]

  # Not the opaque type of `:atomics`, which dialyzer does not let be compared with `nil`.
  @type t :: term
  @type cell :: atom

  @spec new() :: t
  def new, do: :atomics.new(length(@cells), [])

  for {cell, index} <- Enum.with_index(@cells, 1) do
    defp index(unquote(cell)), do: unquote(index)
  end

  @spec get(t, cell) :: integer
  def get(cells, cell), do: :atomics.get(cells, index(cell))

  @spec put(t, cell, integer) :: :ok
  def put(cells, cell, value), do: :atomics.put(cells, index(cell), value)

  @spec add(t, cell, integer) :: :ok
  def add(cells, cell, number), do: :atomics.add(cells, index(cell), number)

  @spec next(t, cell) :: integer
  def next(cells, cell), do: :atomics.add_get(cells, index(cell), 1)
end
