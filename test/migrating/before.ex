defmodule Fleet.Before do
  @moduledoc """
  A small fleet of agents as it is often written: everything it knows between two calls is in
  the dictionary of the process that happens to call. The example of guides/migrating.md.
  """

  require Logger

  def start_agent(name) do
    pid = spawn(fn -> Process.sleep(:infinity) end)
    Process.put(:registered_agents, Map.put(agents(), name, {pid, %{}}))
    pid
  end

  def agent(name) do
    case agents() do
      %{^name => {pid, _metadata}} -> {:ok, pid}
      _none -> {:error, :not_found}
    end
  end

  def request(id, fun) do
    Process.put(:error_context, %{request_id: id})

    try do
      fun.()
    after
      Process.delete(:error_context)
    end
  end

  def work(name) do
    Process.put(:span_stack, [name | Process.get(:span_stack, [])])
    Logger.info("#{name} works")
    Process.put(:span_stack, tl(Process.get(:span_stack)))
    :ok
  end

  def notify(event, metadata) do
    now = System.monotonic_time(:millisecond)

    if now - Process.get({:notified, event, metadata}, now - 1_000) >= 1_000 do
      Process.put({:notified, event, metadata}, now)
      :telemetry.execute([:fleet, event], %{count: 1}, metadata)
    end

    :ok
  end

  defp agents, do: Process.get(:registered_agents, %{})
end
