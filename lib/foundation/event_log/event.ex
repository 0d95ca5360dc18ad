defmodule Foundation.EventLog.Event do
  @moduledoc """
  An event as `Foundation.EventLog` stores it.

    * `:stream` - the name of its stream.
    * `:version` - its number in the stream, from 1, without gaps.
    * `:position` - its number in the log, from 1, without gaps, in the order of the commits.
    * `:type`, `:data`, `:metadata` - as they were appended.
    * `:at` - when the append was called, in microseconds of system time.
  """

  @enforce_keys [:stream, :version, :position, :type, :data, :metadata, :at]
  defstruct [:stream, :version, :position, :type, :data, :metadata, :at]

  @type t :: %__MODULE__{
          stream: String.t(),
          version: pos_integer,
          position: pos_integer,
          type: atom | String.t(),
          data: term,
          metadata: map,
          at: integer
        }
end
