defmodule Foundation.EventLog.Subscriptions do
  @moduledoc false
  # Supervises the processes that send the events of subscriptions. A log's own supervisor does not:
  # a restart of the log's owner leaves them in place.

  use DynamicSupervisor

  alias Foundation.Predecessor

  @doc false
  def start_link(options) do
    Predecessor.await_gone([__MODULE__])
    DynamicSupervisor.start_link(__MODULE__, options, name: __MODULE__)
  end

  @impl true
  # A server that is killed is started again and finds its position in the log, so a restart costs
  # and loses nothing.
  def init(_options),
    do: DynamicSupervisor.init(strategy: :one_for_one, max_restarts: 1_000, max_seconds: 5)
end
