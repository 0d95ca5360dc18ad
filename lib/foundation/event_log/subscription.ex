defmodule Foundation.EventLog.Subscription do
  @moduledoc """
  A live subscription, as `Foundation.EventLog.subscribe/4` returns it.

    * `:log` - the log's name.
    * `:stream` - the stream's name, or `:all`.
    * `:name` - the subscription's name.
    * `:id` - another reference for each call of `subscribe/4`.
  """

  @enforce_keys [:log, :stream, :name, :id]
  defstruct [:log, :stream, :name, :id]

  @type t :: %__MODULE__{
          log: atom,
          stream: String.t() | :all,
          name: atom | String.t(),
          id: reference
        }

  # The name of the subscription in the files: atoms and strings are different names.
  @doc false
  @spec key(atom | String.t()) :: binary
  def key(name) when is_atom(name), do: "a" <> Atom.to_string(name)
  def key(name) when is_binary(name), do: "s" <> name
end
