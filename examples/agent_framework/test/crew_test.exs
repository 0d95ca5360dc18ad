defmodule CrewTest do
  use ExUnit.Case, async: true

  alias Crew.Actions.{AskAll, Note, Recall, Think}
  alias Foundation.{AgentRegistry, RequestContext}
  alias Foundation.Telemetry.{SampledEvents, Span}

  defmodule Whereabouts do
    @moduledoc false
    @behaviour Crew.Action

    @impl true
    def run(%{}, _notes) do
      {:ok, {RequestContext.request_id(), Span.current_span()}, %{}}
    end
  end

  # Ids of a test's own, so that tests do not meet.
  defp start_agent(%{test: test}, name) do
    id = {test, name}
    {:ok, agent} = Crew.start_agent(id)
    on_exit(fn -> Crew.stop_agent(id) end)
    {id, agent}
  end

  # Its mailbox takes what telemetry tells, from whichever process.
  def tell(event, measurements, metadata, {test, id}) do
    if metadata[:agent] == id or metadata[:attributes][:agent] == id,
      do: send(test, {event, measurements, metadata})
  end

  defp listen(event, id) do
    :ok = :telemetry.attach({event, id}, event, &__MODULE__.tell/4, {self(), id})
    on_exit(fn -> :telemetry.detach({event, id}) end)
  end

  test "an agent notes and recalls", context do
    {id, _agent} = start_agent(context, "ada")
    assert Crew.run(id, Note, %{about: :tea, text: "green"}) == {:ok, :noted}
    assert Crew.run(id, Recall, %{about: :tea}) == {:ok, "green"}
    assert Crew.agents()[id] == 2
  end

  test "one process has an id, and it is found until it ends", context do
    {id, agent} = start_agent(context, "ada")
    assert {:error, {:already_started, ^agent}} = Crew.start_agent(id)
    assert Crew.stop_agent(id) == :ok
    assert Crew.run(id, Recall, %{about: :tea}) == {:error, :not_found}
  end

  test "an agent that is killed is back under its id with what it had noted", context do
    {id, agent} = start_agent(context, "ada")
    {:ok, :noted} = Crew.run(id, Note, %{about: :tea, text: "green"})

    monitor = Process.monitor(agent)
    Process.exit(agent, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^agent, :killed}

    assert successor(id) != agent
    assert Crew.run(id, Recall, %{about: :tea}) == {:ok, "green"}
  end

  test "an agent that is stopped in order has its memory when it starts again", context do
    {id, _agent} = start_agent(context, "ada")
    {:ok, :noted} = Crew.run(id, Note, %{about: :tea, text: "green"})
    :ok = Crew.stop_agent(id)
    {:ok, _agent} = Crew.start_agent(id)
    assert Crew.run(id, Recall, %{about: :tea}) == {:ok, "green"}
  end

  test "many callers that need an agent start one", %{test: id} do
    on_exit(fn -> Crew.stop_agent(id) end)
    started = for _ <- 1..100, do: Task.async(fn -> Crew.ensure_agent(id) end)
    assert [{:ok, agent}] = started |> Task.await_many(30_000) |> Enum.uniq()
    assert AgentRegistry.get_agent(id) == {:ok, agent}
  end

  test "a run that is repeated answers as before, and is learned once", context do
    {id, _agent} = start_agent(context, "ada")
    note = &Crew.run(id, Note, %{about: :tea, text: &1}, run_id: &2)
    assert note.("green", "run-1") == {:ok, :noted}
    assert note.("black", "run-2") == {:ok, :noted}
    assert note.("green", "run-1") == {:ok, :noted}
    assert Crew.run(id, Recall, %{about: :tea}) == {:ok, "black"}
  end

  test "an agent thinks with the model, and notes its answer", context do
    {id, _agent} = start_agent(context, "ada")
    question = "#{inspect(id)}: why green?"
    assert {:ok, answer} = Crew.deliver(id, Think, %{question: question})
    assert answer == Crew.LLM.Fake.answer(question)
    assert Crew.run(id, Recall, %{about: question}) == {:ok, answer}
  end

  test "agents that ask the same at once share one call of the model", context do
    agents = for name <- 1..10, do: context |> start_agent("agent-#{name}") |> elem(0)
    question = "#{inspect(context.test)}: why tea?"
    loaded = [:foundation, :cache, :load, :stop]
    :ok = :telemetry.attach({loaded, question}, loaded, &__MODULE__.tell_of_load/4, self())
    on_exit(fn -> :telemetry.detach({loaded, question}) end)

    answers =
      agents
      |> Enum.map(&Task.async(fn -> Crew.deliver(&1, Think, %{question: question}) end))
      |> Task.await_many(60_000)

    assert Enum.uniq(answers) == [{:ok, Crew.LLM.Fake.answer(question)}]
    loads = for %{key: ^question} <- loads(), do: :load
    assert loads == [:load]
  end

  def tell_of_load(_event, _measurements, metadata, test), do: send(test, {:loaded, metadata})

  defp loads do
    receive do
      {:loaded, metadata} -> [metadata | loads()]
    after
      0 -> []
    end
  end

  test "an agent runs as part of its caller's request and span", context do
    {id, _agent} = start_agent(context, "ada")

    RequestContext.with_request_id("r-1", fn ->
      Span.with_span_fun(:request, fn ->
        request = Span.current_span()
        assert {:ok, {"r-1", span}} = Crew.run(id, Whereabouts)

        assert {span.name, span.parent_id, span.trace_id} ==
                 {:action, request.span_id, request.trace_id}
      end)
    end)

    assert {:ok, {nil, _span}} = Crew.run(id, Whereabouts)
  end

  test "an action that raises says where, and leaves the agent and its memory", context do
    {id, agent} = start_agent(context, "ada")
    listen([:foundation, :span, :exception], id)

    assert {:error, %{error: %KeyError{key: :tea}, context: where}} =
             RequestContext.with_request_id("r-2", fn -> Crew.run(id, Recall, %{about: :tea}) end)

    assert %{agent: ^id, action: Recall, request_id: "r-2"} = where
    assert_receive {[:foundation, :span, :exception], _, %{name: :action, status: :error}}
    assert AgentRegistry.get_agent(id) == {:ok, agent}
  end

  test "tasks of an action take the request along to other agents", context do
    {ada, _agent} = start_agent(context, "ada")
    {bob, _agent} = start_agent(context, "bob")
    {eve, _agent} = start_agent(context, "eve")
    {:ok, :noted} = Crew.run(ada, Note, %{about: :tea, text: "green"})

    RequestContext.with_request_id("r-3", fn ->
      assert {:ok, answers} = Crew.run(eve, AskAll, %{agents: [ada, bob], about: :tea})
      assert answers[ada] == {:ok, "green"}
      assert {:error, %{context: %{request_id: "r-3", agent: ^bob}}} = answers[bob]
    end)
  end

  test "a flood of failures is told of once", context do
    {id, _agent} = start_agent(context, "ada")
    listen([:crew, :failure], id)
    for _ <- 1..50, do: {:error, _raised} = Crew.run(id, Recall, %{about: :tea})
    assert_receive {[:crew, :failure], %{count: 1}, %{action: Recall}}
    refute_received {[:crew, :failure], _, _}
  end

  test "every action is accounted for in a bundle", context do
    {id, _agent} = start_agent(context, "ada")
    bundle = [:batched, :crew, :action]
    :ok = :telemetry.attach({bundle, id}, bundle, &__MODULE__.tell_of_bundle/4, self())
    on_exit(fn -> :telemetry.detach({bundle, id}) end)

    for _ <- 1..5, do: Crew.run(id, Note, %{about: :tea, text: "green"})
    :ok = SampledEvents.flush([:crew, :action])

    assert length(for %{metadata: %{agent: ^id}} = event <- bundled(), do: event) == 5
  end

  def tell_of_bundle(_event, _measurements, %{events: events}, test),
    do: send(test, {:bundle, events})

  defp bundled do
    receive do
      {:bundle, events} -> events ++ bundled()
    after
      0 -> []
    end
  end

  defp successor(id) do
    with {:error, :not_found} <- AgentRegistry.get_agent(id) do
      Process.sleep(1)
      successor(id)
    else
      {:ok, agent} -> agent
    end
  end
end
