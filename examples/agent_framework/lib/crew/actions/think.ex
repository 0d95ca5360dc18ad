defmodule Crew.Actions.Think do
  @moduledoc "Asks the model a question, and notes its answer under the question."
  @behaviour Crew.Action

  @impl true
  def run(%{question: question}, _notes) do
    with {:ok, answer} <- Crew.LLM.complete(question), do: {:ok, answer, %{question => answer}}
  end
end
