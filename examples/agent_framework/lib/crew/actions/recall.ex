defmodule Crew.Actions.Recall do
  @moduledoc "Answers what the agent has noted. Raises `KeyError` if that is nothing."
  @behaviour Crew.Action

  @impl true
  def run(%{about: about}, notes), do: {:ok, Map.fetch!(notes, about), %{}}
end
