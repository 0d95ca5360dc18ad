defmodule Foundation.ErrorContext.Backend do
  @moduledoc false
  # Where the context of the calling process is kept. There are two: Logger's metadata, and
  # the process dictionary, which exists for migration only. Each knows nothing of the other.

  alias Foundation.ErrorContext

  @typedoc "What `leave/1` puts back. It is kept on the caller's stack and nowhere else."
  @type saved :: term

  @doc "The context, or `nil`. O(1)."
  @callback get() :: ErrorContext.t() | nil

  @doc """
  Replaces the context; returns how many `enter/2` are around it. O(size of what is printed of
  the old and the new context).
  """
  @callback set(ErrorContext.t()) :: depth :: non_neg_integer

  @doc "Removes the context, and of what stands beside it what the context put there."
  @callback clear() :: :ok

  @doc """
  Merges a context into the one there is, or replaces it, one level deeper, until `leave/1`.

  At the depth limit it leaves the context unchanged. It then returns `{:over, saved}` the first
  time, for a warning, and `:full` from there on.
  """
  @callback enter(ErrorContext.t(), :merge | :replace) ::
              {depth :: pos_integer, saved} | {:over, saved} | :full

  @doc "Puts back exactly what was there before `enter/2`, also if that was nothing."
  @callback leave(saved) :: :ok
end
