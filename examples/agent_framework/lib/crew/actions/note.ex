defmodule Crew.Actions.Note do
  @moduledoc "Keeps a text about something in the agent's memory."
  @behaviour Crew.Action

  @impl true
  def run(%{about: about, text: text}, _notes), do: {:ok, :noted, %{about => text}}
end
