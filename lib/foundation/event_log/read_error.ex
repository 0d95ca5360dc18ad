defmodule Foundation.EventLog.ReadError do
  @moduledoc """
  Raised by a read of an event that the disk does not give back as it was written.

    * `:log` - the log's name.
    * `:reason` - `{:damaged, path, {kind, offset}}` or `{:io, posix}`.

  The guide [Durable events](event_log.html) says what to do about a damaged file.
  """

  defexception [:log, :reason]

  @type t :: %__MODULE__{log: atom, reason: term}

  @impl true
  def message(%{log: log, reason: {:damaged, path, {kind, offset}}}) do
    "the event log #{inspect(log)} is damaged: #{path}, byte #{offset} (#{kind})"
  end

  def message(%{log: log, reason: reason}) do
    "the event log #{inspect(log)} cannot be read: #{inspect(reason)}"
  end
end
