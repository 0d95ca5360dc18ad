defmodule Crew.Actions.Note do
  @moduledoc "Keeps a text about something in the agent's memory."
  @behaviour Crew.Action

  @impl true
  def run(%{about: about, text: text}, memory), do: {:ok, :noted, Map.put(memory, about, text)}
end
