defmodule Foundation.ErrorContext.Backend do
  @moduledoc false
  # Stores the context of the calling process. There are two backends: Logger's metadata, and the
  # process dictionary, which exists only for migration. Neither knows of the other.

  alias Foundation.ErrorContext

  @typedoc "What `leave/1` puts back. It is kept on the caller's stack and nowhere else."
  @type saved :: term

  @doc "The context, or `nil`. O(1)."
  @callback get() :: ErrorContext.t() | nil

  @doc """
  Replaces the context. Returns the number of enclosing `enter/2` calls. O(printed size of the old
  and the new context).
  """
  @callback set(ErrorContext.t()) :: depth :: non_neg_integer

  @doc "Removes the context, and of what stands beside it what the context put there."
  @callback clear() :: :ok

  @doc """
  Merges a context into the current one, or replaces it, one level deeper, until `leave/1`.

  At the depth limit it leaves the context unchanged. It then returns `{:over, saved}` the first
  time, for a warning, and `:full` from there on.
  """
  @callback enter(ErrorContext.t(), :merge | :replace) ::
              {depth :: pos_integer, saved} | {:over, saved} | :full

  @doc "Puts back exactly what was there before `enter/2`, also if that was nothing."
  @callback leave(saved) :: :ok
end
