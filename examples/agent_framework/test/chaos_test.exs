defmodule Crew.ChaosTest do
  # Not async: kills what the whole application shares.
  use ExUnit.Case, async: false

  alias Crew.Actions.{Recall, Think}
  alias Foundation.AgentRegistry

  @moduletag :capture_log
  @moduletag timeout: 300_000

  @agents 4
  @callers 8
  @questions 100
  @kills 150

  # The owners of the log, of the bounds, of the cache and of the agents' table; the supervisor of
  # the agents; the server that `ensure/3` waits in.
  @owners [
    Crew.Log,
    Crew.LLM.Rate,
    Crew.LLM.Breaker,
    Crew.LLM.Calls,
    Crew.LLM.Answers,
    Crew.Agents,
    :foundation_agent_registry,
    Foundation.Registry.Locks
  ]

  defmodule Count do
    @moduledoc false
    # Shows whether a run counts twice.
    @behaviour Crew.Action

    @impl true
    def run(%{}, notes) do
      count = Map.get(notes, :count, 0) + 1
      {:ok, count, %{count: count}}
    end
  end

  test "agents and owners that are killed at random lose nothing and do nothing twice", %{
    test: test
  } do
    ids = for n <- 1..@agents, do: {test, n}

    stop = :atomics.new(1, [])
    callers = for caller <- 1..@callers, do: Task.async(fn -> work(ids, caller, 1, stop) end)
    kill_at_random(ids ++ @owners, @kills)
    :atomics.put(stop, 1, 1)
    rounds = callers |> Task.await_many(200_000) |> Enum.with_index(1)

    for {id, n} <- Enum.with_index(ids, 1) do
      mine = for {last, caller} <- rounds, round <- 1..last, agent(caller, round) == n, do: round
      assert Crew.deliver(id, Recall, %{about: :count}) == {:ok, length(mine)}

      for question <- mine |> Enum.map(&question/1) |> Enum.uniq() do
        expected = {:ok, Crew.LLM.Fake.answer(question)}
        assert Crew.deliver(id, Recall, %{about: question}) == expected
      end
    end
  end

  # Returns how many rounds the caller has done.
  defp work(ids, caller, round, stop) do
    work(ids, caller, round)
    if :atomics.get(stop, 1) == 1, do: round, else: work(ids, caller, round + 1, stop)
  end

  defp work(ids, caller, round) do
    id = Enum.at(ids, agent(caller, round) - 1)
    question = question(round)
    # The model may fail more often than a call is repeated.
    answer = until_ok(fn -> Crew.deliver(id, Think, %{question: question}) end)
    assert answer == Crew.LLM.Fake.answer(question)
    assert {:ok, _count} = Crew.deliver(id, Count)
  end

  defp until_ok(ask) do
    with {:error, _reason} <- ask.() do
      until_ok(ask)
    else
      {:ok, answer} -> answer
    end
  end

  # Callers ask different agents the same question, at about the same time.
  defp agent(caller, round), do: rem(caller + round, @agents) + 1
  defp question(round), do: "What is #{rem(round, @questions)}?"

  defp kill_at_random(_victims, 0), do: :ok

  defp kill_at_random(victims, left) do
    killed = kill(Enum.random(victims))
    # Apart, so that work goes on between two kills.
    Process.sleep(:rand.uniform(20))
    kill_at_random(victims, left - killed)
  end

  defp kill(name) when is_atom(name), do: kill_pid(Process.whereis(name))

  defp kill(id) do
    case AgentRegistry.get_agent(id) do
      {:ok, agent} -> kill_pid(agent)
      {:error, :not_found} -> 0
    end
  end

  defp kill_pid(nil), do: 0

  defp kill_pid(pid) do
    Process.exit(pid, :kill)
    1
  end
end
