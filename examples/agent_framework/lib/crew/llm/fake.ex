defmodule Crew.LLM.Fake do
  @moduledoc """
  Stands in for a language model: slow, and unreliable in one call of five.

  Its answer depends on the prompt alone.
  """

  @behaviour Crew.LLM

  @impl true
  def complete(prompt) do
    Process.sleep(:rand.uniform(5))

    case :rand.uniform(10) do
      1 -> {:error, :overloaded}
      2 -> raise "the connection was closed"
      _answered -> {:ok, answer(prompt)}
    end
  end

  @doc "The answer to a prompt."
  @spec answer(String.t()) :: String.t()
  def answer(prompt), do: "It depends: #{:erlang.phash2(prompt)}."
end
