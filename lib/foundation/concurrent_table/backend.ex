defmodule Foundation.ConcurrentTable.Backend do
  @moduledoc false
  # The engine of a `Foundation.ConcurrentRegistry`. Keys compare by `===`. Every callback runs in
  # the caller, and raises `ArgumentError` once the table is gone.

  @type table :: term
  @type key :: term
  @type value :: term
  @type version :: term

  @doc "A new, empty table. It belongs to the caller and goes when the caller ends."
  @callback new() :: table

  @doc """
  A new, empty table for a name. It stays until `c:destroy/1`; the ETS engine's only as long as one
  of its owner and its heir, the caller, lives.
  """
  @callback new_kept(name :: atom) :: table

  @doc "The ETS tables that must have an owner."
  @callback parts(table) :: [:ets.tid()]

  @doc "Whether the table exists."
  @callback there?(table) :: boolean

  @doc "Ends a table of `c:new_kept/1`, if it exists."
  @callback destroy(table) :: :ok

  @doc "Sets a key. O(1) besides the copy of the value; atomic."
  @callback put(table, key, value) :: :ok

  @doc "Sets a key that is not there. Of callers that race, one is told `true`. O(1)."
  @callback put_new(table, key, value) :: boolean

  @doc "The value as it was last set, or `default`. O(1) besides the copy; takes no lock."
  @callback get(table, key, default :: term) :: value | term

  @doc "The value with the version that its write had, or `:error`. O(1) besides the copy."
  @callback fetch(table, key) :: {version, value} | :error

  @doc """
  Sets a key that is still of the version that was read, and says whether it was: a
  compare-and-swap, since no two writes have the same version. O(1); in the ETS engine O(size of
  the table) for a few keys.
  """
  @callback replace(table, key, version, value) :: boolean

  @doc "Removes a key, if it is there. O(1)."
  @callback delete(table, key) :: :ok

  @doc "How many keys there are. O(1)."
  @callback size(table) :: non_neg_integer

  @doc """
  A lazy walk of `{key, value}`, in chunks of bounded size. A key that was there throughout appears
  exactly once, with one of the values it had meanwhile.
  """
  @callback stream(table) :: Enumerable.t()
end
