defmodule Crew.Actions.Recall do
  @moduledoc "Answers what the agent has noted. Raises `KeyError` if that is nothing."
  @behaviour Crew.Action

  @impl true
  def run(%{about: about}, memory), do: {:ok, Map.fetch!(memory, about), memory}
end
