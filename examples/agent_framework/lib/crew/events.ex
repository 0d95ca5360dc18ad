defmodule Crew.Events do
  @moduledoc """
  The events of agents.

  | event | measurements | metadata | when |
  |---|---|---|---|
  | `[:batched, :crew, :action]` | `:count`, and `:sum`, `:min`, `:max` of `:duration` (native) | `:events` | after 100 actions, or a second |
  | `[:crew, :failure]` | `:count` (1) | `:agent`, `:action` | once a minute for an agent and an action of it that raises, ten a second in all |
  """

  use Foundation.Telemetry.SampledEvents, prefix: [:crew]
end
