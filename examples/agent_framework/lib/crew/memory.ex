defmodule Crew.Memory do
  @moduledoc """
  The memory of an agent: an aggregate, whose state is the events of the agent's stream.

  One event is one run of an action: the run's id, its answer, and the notes that it made. A run
  that is repeated finds its answer here, and changes nothing. A run that has read outdated notes is
  refused.
  """

  use Foundation.EventLog.Aggregate

  alias Foundation.EventLog.Aggregate

  @type notes :: %{term => term}

  # How many runs can be repeated without being run again: the last ones.
  @runs 1_000

  @doc "Starts the memory of an agent, linked to the agent."
  @spec open(Crew.id()) :: {:ok, pid} | {:error, term}
  def open(id), do: start_link(log: Crew.Log, stream: stream(id))

  # A stream's name is a binary of at most 255 bytes, an id is any term.
  defp stream(id) do
    hash = :crypto.hash(:sha256, :erlang.term_to_binary(id, [:deterministic]))
    "agent-" <> Base.url_encode64(hash)
  end

  @doc "Returns the notes with their version, or the answer that the run has given already."
  @spec begin(pid, binary) :: {:notes, notes, version :: non_neg_integer} | {:answer, term}
  def begin(memory, run_id) do
    {:ok, _version, begun} = Aggregate.execute(memory, {:begin, run_id})
    begun
  end

  @doc """
  Keeps the answer and the notes of a run, which are on disk when it returns.

  `{:error, :outdated}` if the memory has another version than the run has read. When an agent is
  killed, the append of its last run may still be under way while its successor begins the next.
  """
  @spec finish(pid, binary, non_neg_integer, term, notes) :: :ok | {:error, :outdated | term}
  def finish(memory, run_id, version, answer, notes) do
    case Aggregate.execute(memory, {:finish, run_id, version, answer, notes}) do
      {:ok, _version} -> :ok
      {:error, _reason} = error -> error
    end
  end

  @impl true
  def init(_stream), do: %{version: 0, notes: %{}, answers: %{}, runs: :queue.new()}

  @impl true
  def handle_command({:begin, run_id}, memory) do
    case memory.answers do
      %{^run_id => answer} -> {:ok, [], {:answer, answer}}
      %{} -> {:ok, [], {:notes, memory.notes, memory.version}}
    end
  end

  def handle_command({:finish, run_id, version, answer, notes}, memory) do
    cond do
      is_map_key(memory.answers, run_id) -> {:ok, []}
      version != memory.version -> {:error, :outdated}
      true -> {:ok, [{:ran, {run_id, answer, notes}}]}
    end
  end

  @impl true
  def apply_event({:ran, {run_id, answer, notes}, _metadata}, memory) do
    forget_oldest(%{
      version: memory.version + 1,
      notes: Map.merge(memory.notes, notes),
      answers: Map.put(memory.answers, run_id, answer),
      runs: :queue.in(run_id, memory.runs)
    })
  end

  defp forget_oldest(%{answers: answers} = memory) when map_size(answers) <= @runs, do: memory

  defp forget_oldest(memory) do
    {{:value, oldest}, runs} = :queue.out(memory.runs)
    %{memory | answers: Map.delete(memory.answers, oldest), runs: runs}
  end
end
