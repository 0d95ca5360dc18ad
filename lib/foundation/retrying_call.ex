defmodule Foundation.RetryingCall do
  @moduledoc false
  # Calls to the application's own processes that outlast a restart of the one called.
  #
  # Such a process may be killed between a request and its answer. Its state is in tables, and
  # every request made this way can be repeated. The caller therefore asks the successor instead
  # of crashing.

  # A restart takes microseconds. A process away for longer will not come back: the
  # application has been stopped.
  @patience_ms 5_000
  @pause_ms 2

  @doc """
  `GenServer.call/3` without a timeout, repeated while `server` is being restarted.
  """
  @spec call(atom, term) :: term
  def call(server, request) do
    with {:away, reason} <- attempt(server, request, fn _server -> true end, deadline()),
         do: exit(reason)
  end

  @doc """
  The same for a server that may have been stopped: `nil` where it does not come back, or where
  `there?` says that it will not.
  """
  @spec call(atom, term, (atom -> boolean)) :: term | nil
  def call(server, request, there?) do
    with {:away, _reason} <- attempt(server, request, there?, deadline()), do: nil
  end

  defp attempt(server, request, there?, deadline) do
    if there?.(server), do: GenServer.call(server, request, :infinity), else: {:away, :noproc}
  catch
    # Only the server's absence or death, whatever it died of, ends a call that never times out.
    :exit, {_reason, {GenServer, :call, _arguments}} = reason ->
      if now() > deadline do
        {:away, reason}
      else
        Process.sleep(@pause_ms)
        # While it is up it may keep its caller waiting; only the time without it is bounded.
        attempt(
          server,
          request,
          there?,
          if(Process.whereis(server), do: deadline(), else: deadline)
        )
      end
  end

  defp deadline, do: now() + @patience_ms
  defp now, do: System.monotonic_time(:millisecond)
end
