defmodule Foundation.MigrationTest do
  # Not async: the flags are global, and processes of the application are stopped.
  use Foundation.Case, async: false

  import ExUnit.CaptureLog
  import Foundation.Meanwhile

  alias Foundation.{AgentRegistry, ErrorContext, FeatureFlags, Migration, Registry}
  alias Foundation.Telemetry.{SampledEvents, Span}

  @stages %{
    2 => :use_ets_agent_registry,
    3 => :use_logger_error_context,
    4 => :use_genserver_telemetry,
    5 => :enforce_no_process_dict
  }

  @moduletag :capture_log

  setup do
    :ok = FeatureFlags.boot()
    :ok = :telemetry.attach(self(), [:foundation, :migration, :stage], &__MODULE__.tell/4, self())
    test = self()

    on_exit(fn ->
      :telemetry.detach(test)
      :ok = FeatureFlags.boot()
    end)
  end

  def tell(_event, measurements, metadata, test), do: send(test, {:stage, measurements, metadata})

  defp at(stage) do
    {:ok, ^stage} = Migration.to_stage(stage)
    told()
  end

  # The emitted events, oldest first.
  defp told do
    receive do
      {:stage, %{stage: stage} = measurements, %{feature: flag} = metadata}
      when map_size(measurements) == 1 and map_size(metadata) == 1 ->
        [{stage, flag} | told()]
    after
      0 -> []
    end
  end

  doctest Migration

  test "a new application is at stage 4" do
    assert %{stage: 4, flags: flags} = Migration.status()
    assert flags == FeatureFlags.list_all()
  end

  test "migrate_to goes forward through all stages, one flag per step" do
    at(1)

    for stage <- 2..5 do
      before = FeatureFlags.list_all()
      assert Migration.advance() == {:ok, stage}
      assert told() == [{stage, @stages[stage]}]
      assert Migration.status().stage == stage
      assert FeatureFlags.list_all() == Map.put(before, @stages[stage], true)
    end

    assert Migration.advance() == {:error, :last_stage}
    assert told() == []
  end

  test "a rollback goes back through all stages, one flag per step" do
    at(5)

    for stage <- [4, 3, 2, 1] do
      before = FeatureFlags.list_all()
      assert Migration.rollback() == {:ok, stage}
      assert told() == [{stage, @stages[stage + 1]}]
      assert FeatureFlags.list_all() == Map.put(before, @stages[stage + 1], false)
    end

    assert Migration.rollback() == {:error, :first_stage}
    assert told() == []
  end

  test "a change over several stages emits an event per stage, in order" do
    for from <- 1..5, to <- 1..5 do
      at(from)
      assert Migration.to_stage(to) == {:ok, to}

      expected =
        if to > from,
          do: for(stage <- (from + 1)..to, do: {stage, @stages[stage]}),
          else: for(stage <- from..(to + 1)//-1, do: {stage - 1, @stages[stage]})

      assert told() == expected
      assert Migration.status().stage == to
    end
  end

  test "rollback/1 goes to an earlier stage and refuses an invalid or later one" do
    assert Migration.rollback(2) == {:ok, 2}
    assert told() == [{3, :use_genserver_telemetry}, {2, :use_logger_error_context}]
    assert Migration.rollback(2) == {:ok, 2}

    for wrong <- [3, 5, 0, -1, nil, "1", 1.0] do
      assert Migration.rollback(wrong) == {:error, {:invalid_stage, wrong}}
    end

    for wrong <- [0, 6, nil, :last, 2.0] do
      assert Migration.to_stage(wrong) == {:error, {:invalid_stage, wrong}}
    end

    assert told() == []
    assert Migration.status().stage == 2
  end

  test "an emergency rollback goes to the first stage at once and logs the reason" do
    for from <- 1..5 do
      at(from)
      log = capture_log(fn -> assert Migration.emergency_rollback({:too, :slow}) == {:ok, 1} end)
      assert log =~ "went back to stage 1 of its migration: {:too, :slow}"
      assert length(told()) == from - 1
    end
  end

  test "the stage follows from the flags, even if they were set one by one" do
    :ok = FeatureFlags.disable(:use_ets_agent_registry)
    assert Migration.status().stage == 1
    :ok = FeatureFlags.set_percentage(:use_ets_agent_registry, 99)
    assert Migration.status().stage == 1
    :ok = FeatureFlags.set_percentage(:use_ets_agent_registry, 100)
    assert Migration.status().stage == 4
    :ok = FeatureFlags.disable(:use_logger_error_context)
    assert Migration.status().stage == 2

    assert Migration.to_stage(2) == {:ok, 2}
    assert told() == [{3, :use_genserver_telemetry}]

    :ok = FeatureFlags.enable(:enforce_no_process_dict)
    :ok = FeatureFlags.set_percentage(:use_logger_error_context, 10)
    assert Migration.to_stage(1) == {:ok, 1}
    assert FeatureFlags.list_all() |> Map.values() |> Enum.uniq() == [false]
  end

  describe "the caller's own entries" do
    test "are carried over at the stage that moves their area" do
      at(1)
      :ok = AgentRegistry.register_agent("mine", self(), %{n: 1})
      ErrorContext.set_context(%{request_id: "r-1"})

      assert Migration.advance() == {:ok, 2}
      assert Registry.lookup(:foundation_agent_registry, "mine") == [{self(), %{n: 1}}]
      refute :registered_agents in Process.get_keys()
      assert Process.get(:error_context) == %{request_id: "r-1"}

      assert Migration.advance() == {:ok, 3}
      refute :error_context in Process.get_keys()
      assert Logger.metadata()[:request_id] == "r-1"
      assert ErrorContext.get_context() == %{request_id: "r-1"}

      assert Migration.to_stage(5) == {:ok, 5}
      assert AgentRegistry.get_agent("mine") == {:ok, self()}
      capture_log(fn -> assert Migration.emergency_rollback(:test) == {:ok, 1} end)
      assert AgentRegistry.get_agent_with_metadata("mine") == {:ok, {self(), %{n: 1}}}
      assert ErrorContext.get_context() == %{request_id: "r-1"}
      ErrorContext.clear_context()
    end

    test "that other code put in the process dictionary are carried over" do
      at(1)
      Process.put(:registered_agents, %{"old" => {self(), %{}}, "older" => self()})
      Process.put(:error_context, %{request_id: "old"})
      at(3)
      assert AgentRegistry.get_agent("old") == {:ok, self()}
      assert AgentRegistry.get_agent("older") == {:ok, self()}
      assert Logger.metadata()[:request_id] == "old"
    end
  end

  describe "a failed change leaves flags and entries unchanged:" do
    # Runs `fun` while a child that the step needs is stopped.
    defp without(supervisor, child, fun) do
      :ok = Supervisor.terminate_child(supervisor, child)

      try do
        fun.()
      after
        {:ok, _pid} = Supervisor.restart_child(supervisor, child)
      end
    end

    @parts [
      {2, Foundation.Supervisor, Foundation.RegistrySupervisor, :registry},
      {3, Foundation.Supervisor, Foundation.ErrorContext.Raised, :error_context},
      {4, Foundation.Supervisor, Foundation.TelemetrySupervisor, :telemetry},
      {4, Foundation.TelemetrySupervisor, Foundation.Telemetry.SampledEvents, :telemetry},
      {5, Foundation.Supervisor, Foundation.RegistrySupervisor, :registry},
      {5, Foundation.Supervisor, Foundation.ErrorContext.Raised, :error_context},
      {5, Foundation.Supervisor, Foundation.TelemetrySupervisor, :telemetry}
    ]

    for {stage, supervisor, child, area} <- @parts do
      test "into stage #{stage} without #{inspect(child)}" do
        at(unquote(stage) - 1)
        before = state()

        without(unquote(supervisor), unquote(child), fn ->
          assert {:error, {:unhealthy, unquote(area), [_ | _]}} = Migration.advance()
          assert FeatureFlags.list_all() == before.flags
          assert told() == []
        end)

        assert state() == before
        assert Migration.advance() == {:ok, unquote(stage)}
      end

      test "over several stages, into #{stage} without #{inspect(child)}" do
        at(1)
        :ok = AgentRegistry.register_agent("mine", self(), %{n: 1})
        ErrorContext.set_context(%{a: 1})
        before = state()

        without(unquote(supervisor), unquote(child), fn ->
          assert {:error, {:unhealthy, unquote(area), _parts}} = Migration.to_stage(5)
          assert FeatureFlags.list_all() == before.flags
          assert told() == []
        end)

        assert state() == before
        ErrorContext.clear_context()
      end
    end

    test "when the registry has an agent of the caller under another process" do
      other = start_worker()
      :ok = AgentRegistry.register_agent("taken", other)
      at(1)

      Process.put(
        :registered_agents,
        Map.new(["taken" | Enum.to_list(1..20)], &{&1, {self(), %{}}})
      )

      before = state()

      for change <- [&Migration.advance/0, fn -> Migration.to_stage(5) end] do
        assert change.() == {:error, {:already_registered, "taken", other}}
        assert state() == before
        assert told() == []
      end

      kill(other)
      assert Migration.advance() == {:ok, 2}
      assert AgentRegistry.get_agent("taken") == {:ok, self()}
    end

    test "while the flags server is down" do
      for {from, change} <- [
            {1, &Migration.advance/0},
            {4, &Migration.advance/0},
            {5, &Migration.rollback/0},
            {3, fn -> Migration.emergency_rollback(:test) end}
          ] do
        at(from)
        if from == 1, do: :ok = AgentRegistry.register_agent("mine", self(), %{n: 1})
        before = state()

        without(Foundation.Supervisor, FeatureFlags, fn ->
          assert change.() == {:error, :unavailable}
          assert state() == before
          assert told() == []
        end)

        AgentRegistry.unregister_agent("mine")
      end
    end

    # All state of this process that a migration could change.
    defp state do
      %{
        flags: FeatureFlags.list_all(),
        agents: Enum.sort(Registry.keys(:foundation_agent_registry, self())),
        dictionary:
          Process.get() |> Keyword.take([:registered_agents, :error_context]) |> Enum.sort(),
        metadata: Logger.metadata()
      }
    end
  end

  test "two concurrent changes run one after another" do
    for _round <- 1..10 do
      at(1)
      [one, other] = for _ <- 1..2, do: Task.async(&Migration.advance/0)
      assert Enum.sort(Task.await_many([one, other], 30_000)) == [{:ok, 2}, {:ok, 3}]
    end
  end

  test "working processes lose nothing and no call raises through all stages" do
    at(1)

    change = fn ->
      for stage <- 2..5, do: assert(Migration.advance() == {:ok, stage})
      assert Migration.rollback(3) == {:ok, 3}
      capture_log(fn -> assert Migration.emergency_rollback(:test) == {:ok, 1} end)
    end

    start = fn worker ->
      :ok = AgentRegistry.register_agent(worker, self(), %{n: 0})
      ErrorContext.set_context(%{worker: worker})
    end

    meanwhile(change, start, &work/2, changes: 8)
  end

  defp work(worker, n) do
    assert AgentRegistry.get_agent(worker) == {:ok, self()}
    assert AgentRegistry.update_metadata(worker, &Map.update!(&1, :n, fn n -> n + 1 end)) == :ok
    assert AgentRegistry.get_agent_with_metadata(worker) == {:ok, {self(), %{n: n + 1}}}
    assert ErrorContext.get_context() == %{worker: worker}

    ErrorContext.with_context(%{n: n}, fn ->
      assert ErrorContext.get_context() == %{worker: worker, n: n}

      Span.with_span_fun({:outer, n}, %{}, fn ->
        id = Span.start_span({:inner, n})
        assert %{span_id: ^id} = Span.current_span()
        assert Span.record_event(:half, %{}) == :ok
        assert Span.end_span(id) == :ok
        assert %{name: {:outer, ^n}} = Span.current_span()
      end)
    end)

    assert Span.current_span() == nil

    SampledEvents.emit_event([:migration_test], %{n: n}, %{worker: worker})
  end
end
