defmodule Foundation.SupervisionTest do
  # Not async: kills every process of the application.
  use Foundation.Case, async: false

  alias Foundation.{AgentRegistry, ErrorContext, FeatureFlags, HealthCheck}
  alias Foundation.Telemetry.{SampledEvents, Span}

  @moduletag :capture_log

  @names [
    Foundation.Supervisor,
    FeatureFlags,
    Foundation.RegistrySupervisor,
    Foundation.TelemetrySupervisor,
    Foundation.Telemetry.Tables,
    Span,
    SampledEvents,
    :foundation_agent_registry
  ]

  test "every supervised process has its registered name" do
    for name <- @names, do: assert(is_pid(Process.whereis(name)), inspect(name))
  end

  test "a kill of any supervised process leaves the system working" do
    agent = start_worker()
    :ok = FeatureFlags.set_percentage(:enforce_no_process_dict, 7)
    on_exit(fn -> FeatureFlags.reset_all() end)

    for path <- paths() do
      {_id, pid} = List.last(at(path))
      kill(pid)

      eventually(fn -> HealthCheck.status() == :ok end)
      # The processes have restarted, because each of them has answered.
      assert {_id, successor} = List.last(at(path))
      assert is_pid(successor) and successor != pid, inspect(path)
      for name <- @names, do: assert(is_pid(Process.whereis(name)), inspect({path, name}))

      assert FeatureFlags.list_all().enforce_no_process_dict == 7
      assert FeatureFlags.set(:use_genserver_telemetry, true) == :ok
      id = {:after, path}
      assert AgentRegistry.register_agent(id, agent) == :ok
      assert AgentRegistry.get_agent(id) == {:ok, agent}
      assert AgentRegistry.unregister_agent(id) == :ok
      assert Span.with_span_fun(:after, %{}, fn -> Span.current_span().name end) == :after
      assert SampledEvents.emit_event([:supervision_test], %{}, %{path: path}) == :ok
      assert SampledEvents.emit_batched([:supervision_test], %{n: 1}, %{}) == :ok
      assert SampledEvents.flush() == :ok
      exception = catch_error(ErrorContext.with_context(%{path: path}, fn -> raise "x" end))
      assert ErrorContext.enrich_error(exception).context == %{path: path}
    end
  end

  # A release upgrade calls a supervisor's init/1 in the running supervisor.
  test "code_change of every process succeeds and changes no child" do
    before = processes()

    for {path, pid} <- before do
      :ok = :sys.suspend(pid)
      assert {path, :sys.change_code(pid, __MODULE__, :undefined, [])} == {path, :ok}
      :ok = :sys.resume(pid)
    end

    assert processes() == before
    assert HealthCheck.status() == :ok
  end

  defp processes do
    top = {[], Process.whereis(Foundation.Supervisor)}
    [top | for(path <- paths(), do: {path, path |> at() |> List.last() |> elem(1)})]
  end

  # The ids on the path from the top supervisor to each child, at any depth.
  defp paths(supervisor \\ Foundation.Supervisor, above \\ []) do
    Enum.flat_map(Supervisor.which_children(supervisor), fn
      {id, pid, :supervisor, _} -> [Enum.reverse([id | above]) | paths(pid, [id | above])]
      {id, _pid, :worker, _} -> [Enum.reverse([id | above])]
    end)
  end

  defp at(path) do
    {found, _pid} =
      Enum.map_reduce(path, Foundation.Supervisor, fn id, supervisor ->
        {_id, pid, _, _} = List.keyfind(Supervisor.which_children(supervisor), id, 0)
        {{id, pid}, pid}
      end)

    found
  end
end
