defmodule Foundation.ErrorContext.CrashReports do
  @moduledoc false
  # A filter of `:logger` that adds the context to crash reports. A process that reports its crash
  # has left `with_context/2`, so its metadata lacks the context. Other events pass at the cost of
  # one pattern match. The filter stops no event.

  alias Foundation.ErrorContext.{Printable, Raised}

  @id Foundation.ErrorContext

  @spec attach() :: :ok
  def attach do
    case :logger.add_primary_filter(@id, {&__MODULE__.filter/2, []}) do
      :ok -> :ok
      # A predecessor that was killed has left its filter.
      {:error, {:already_exist, @id}} -> :ok
    end
  end

  @spec detach() :: :ok
  def detach do
    _removed = :logger.remove_primary_filter(@id)
    :ok
  end

  @spec filter(:logger.log_event(), term) :: :logger.filter_return()
  def filter(%{level: level, meta: %{pid: pid}} = event, _options)
      when level in [:error, :critical] and is_pid(pid) do
    with {:ok, crash} <- crash(event.msg),
         metadata when is_map(metadata) <- Raised.metadata_of(pid, crash) do
      raised = Map.drop(metadata, [:error_context_frame | Printable.logger_keys()])
      %{event | meta: Map.merge(event.meta, raised)}
    else
      _other -> :ignore
    end
  end

  def filter(_event, _options), do: :ignore

  # Returns the reason of the crash: {reason, stacktrace}, or the reason of an exit.
  defp crash({:report, %{label: {:proc_lib, :crash}, report: [[_ | _] = info | _linked]}}) do
    case List.keyfind(info, :error_info, 0) do
      {:error_info, {class, reason, stacktrace}} -> {:ok, crash(class, reason, stacktrace)}
      _other -> :error
    end
  end

  defp crash({:report, %{label: {:gen_statem, :terminate}, reason: {class, reason, stacktrace}}})
       when class in [:error, :exit, :throw],
       do: {:ok, crash(class, reason, stacktrace)}

  defp crash({:report, %{label: {server, :terminate}, reason: reason}})
       when server in [:gen_server, :gen_event],
       do: {:ok, reason}

  defp crash({:report, %{label: {Task.Supervisor, :terminating}, report: %{reason: reason}}}) do
    {:ok, reason}
  end

  # A report by the VM itself, for a process that was spawned without proc_lib.
  defp crash({[?E, ?r, ?r, ?o, ?r, ?\s, ?i, ?n | _], arguments}) when is_list(arguments) do
    {:ok, List.last(arguments)}
  end

  defp crash(_message), do: :error

  defp crash(:error, reason, stacktrace), do: {reason, stacktrace}
  defp crash(:throw, reason, stacktrace), do: {{:nocatch, reason}, stacktrace}
  defp crash(:exit, reason, _stacktrace), do: reason
end
