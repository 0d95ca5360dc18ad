defmodule Fleet.After do
  @moduledoc """
  The fleet of `Fleet.Before`, with the same functions, on Foundation. The example of
  guides/migrating.md.
  """

  alias Foundation.{AgentRegistry, RequestContext}
  alias Foundation.Telemetry.{SampledEvents, Span}

  require Logger

  def start_agent(name) do
    pid = spawn(fn -> Process.sleep(:infinity) end)
    :ok = AgentRegistry.register_agent(name, pid)
    pid
  end

  defdelegate agent(name), to: AgentRegistry, as: :get_agent

  defdelegate request(id, fun), to: RequestContext, as: :with_request_id

  def work(name) do
    Span.with_span_fun(name, %{}, fn ->
      Logger.info("#{name} works")
      :ok
    end)
  end

  def notify(event, metadata) do
    SampledEvents.emit_event([:fleet, event], %{count: 1}, metadata)
  end
end
