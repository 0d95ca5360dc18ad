defmodule Foundation.ConcurrentRegistry.Backend do
  @moduledoc false
  # What holds a `Foundation.ConcurrentRegistry`. Keys compare by `===`. Every callback runs in the
  # caller, and raises `ArgumentError` once the table is gone.

  @type table :: term
  @type key :: term
  @type value :: term

  @doc "A new, empty table. It belongs to the caller and goes when the caller ends."
  @callback new() :: table

  @doc "Sets a key. O(1) besides the copy of the value; atomic."
  @callback put(table, key, value) :: :ok

  @doc "Sets a key that is not there. Of callers that race, one is told `true`. O(1)."
  @callback put_new(table, key, value) :: boolean

  @doc "The value as it was last set, or `default`. O(1) besides the copy; takes no lock."
  @callback get(table, key, default :: term) :: value | term

  @doc """
  Replaces a value by `fun` of it, or sets `default` where there is none, and returns the new value.

  Linearizable: the value that `fun` was given is the one that its result replaces. `fun` runs in
  the caller, under no lock, and again for as often as another write of the key came between.
  """
  @callback update(table, key, default :: value, fun :: (value -> value)) :: value

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
