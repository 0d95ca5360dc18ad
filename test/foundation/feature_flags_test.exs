defmodule Foundation.FeatureFlagsTest do
  # Not async: the flags are global.
  use ExUnit.Case, async: false

  alias Foundation.FeatureFlags
  alias Foundation.FeatureFlags.Table

  @flags [
    :use_ets_agent_registry,
    :use_logger_error_context,
    :use_genserver_telemetry,
    :enforce_no_process_dict
  ]

  setup do
    :ok = FeatureFlags.reset_all()
    on_exit(fn -> :ok = FeatureFlags.reset_all() end)
  end

  doctest FeatureFlags

  test "a new application uses shared state and enforces nothing" do
    assert FeatureFlags.list_all() == %{
             use_ets_agent_registry: true,
             use_logger_error_context: true,
             use_genserver_telemetry: true,
             enforce_no_process_dict: false
           }
  end

  for flag <- @flags do
    test "#{flag} is turned off and on" do
      assert FeatureFlags.disable(unquote(flag)) == :ok
      refute FeatureFlags.enabled?(unquote(flag))
      assert FeatureFlags.enable(unquote(flag)) == :ok
      assert FeatureFlags.enabled?(unquote(flag))
      assert FeatureFlags.list_all()[unquote(flag)] == true
    end
  end

  test "an already running process sees a change" do
    reader =
      spawn_link(fn ->
        receive do
          {:read, from} -> send(from, {:read, FeatureFlags.enabled?(:enforce_no_process_dict)})
        end
      end)

    :ok = FeatureFlags.enable(:enforce_no_process_dict)
    send(reader, {:read, self()})
    assert_receive {:read, true}
  end

  test "a percentage is listed as it was set, and enabled?/1 is false below 100" do
    assert FeatureFlags.set_percentage(:use_ets_agent_registry, 30) == :ok
    assert FeatureFlags.list_all().use_ets_agent_registry == 30
    refute FeatureFlags.enabled?(:use_ets_agent_registry)

    assert FeatureFlags.set(:use_ets_agent_registry, 100) == :ok
    assert FeatureFlags.enabled?(:use_ets_agent_registry)
  end

  test "a boolean flag is that boolean for every id" do
    for value <- [true, false], id <- [1, "one", {:agent, 1}, self()] do
      :ok = FeatureFlags.set(:use_ets_agent_registry, value)
      assert FeatureFlags.enabled_for_id?(:use_ets_agent_registry, id) == value
    end
  end

  test "a higher percentage turns no id off, and each share is close to its percentage" do
    on =
      for percentage <- 0..100 do
        :ok = FeatureFlags.set_percentage(:use_ets_agent_registry, percentage)

        set =
          for id <- 1..2_000, FeatureFlags.enabled_for_id?(:use_ets_agent_registry, id), do: id

        # Five standard deviations of a binomial distribution with n = 2,000.
        deviation = :math.sqrt(2_000 * percentage / 100 * (1 - percentage / 100))
        assert_in_delta length(set), 20 * percentage, 5 * deviation + 0.5
        MapSet.new(set)
      end

    assert Enum.zip(on, tl(on)) |> Enum.all?(fn {low, high} -> MapSet.subset?(low, high) end)
  end

  test "the ids of two flags are independent" do
    for flag <- @flags, do: :ok = FeatureFlags.set_percentage(flag, 50)

    for one <- @flags, other <- @flags, one < other do
      both =
        Enum.count(1..4_000, fn id ->
          FeatureFlags.enabled_for_id?(one, id) and FeatureFlags.enabled_for_id?(other, id)
        end)

      # A quarter, within five standard deviations.
      assert_in_delta both, 1_000, 5 * :math.sqrt(4_000 * 0.25 * 0.75)
    end
  end

  test "the ids of a percentage are the same in every VM" do
    :ok = FeatureFlags.set_percentage(:use_ets_agent_registry, 20)

    on =
      for id <- 1..20, FeatureFlags.enabled_for_id?(:use_ets_agent_registry, "id-#{id}"), do: id

    assert on == [3, 6, 8]
  end

  test "setting an unknown flag is an error and changes no flag" do
    before = FeatureFlags.list_all()

    for set <- [
          &FeatureFlags.enable/1,
          &FeatureFlags.disable/1,
          &FeatureFlags.set(&1, true),
          &FeatureFlags.set_percentage(&1, 5)
        ] do
      assert set.(:use_magic) == {:error, {:unknown_flag, :use_magic}}
    end

    assert FeatureFlags.list_all() == before
  end

  test "reading an unknown flag raises with a suggestion" do
    message = ~r/expected a flag to be one of .*, got: :use_ets_agent_registy, did you mean :use_/

    assert_raise ArgumentError, message, fn ->
      FeatureFlags.enabled?(:use_ets_agent_registy)
    end

    assert_raise ArgumentError, message, fn ->
      FeatureFlags.enabled_for_id?(:use_ets_agent_registy, 1)
    end

    assert_raise ArgumentError, ~r/got: "text"$/, fn -> FeatureFlags.enabled?("text") end
  end

  test "a flag that is not an atom is unknown" do
    for flag <- ["use_ets_agent_registry", 1, nil, {:a, 1}] do
      unknown = {:error, {:unknown_flag, flag}}
      assert FeatureFlags.enable(flag) == unknown
      assert FeatureFlags.disable(flag) == unknown
      assert FeatureFlags.set(flag, 50) == unknown
      assert FeatureFlags.set_percentage(flag, 50) == unknown
    end
  end

  test "a value that is neither a boolean nor a percentage is refused" do
    for value <- [nil, :on, -1, 101, 50.0, "50", {1, 2}] do
      assert FeatureFlags.set(:enforce_no_process_dict, value) ==
               {:error, {:invalid_value, value}}

      assert FeatureFlags.set_percentage(:enforce_no_process_dict, value) ==
               {:error, {:invalid_value, value}}
    end

    assert FeatureFlags.set_percentage(:enforce_no_process_dict, true) ==
             {:error, {:invalid_value, true}}

    refute FeatureFlags.enabled?(:enforce_no_process_dict)
  end

  describe "configured flags" do
    setup do
      configured = Application.fetch_env(:foundation, :feature_flags)

      on_exit(fn ->
        case configured do
          {:ok, flags} -> Application.put_env(:foundation, :feature_flags, flags)
          :error -> Application.delete_env(:foundation, :feature_flags)
        end
      end)
    end

    test "override the current ones" do
      :ok = FeatureFlags.disable(:use_ets_agent_registry)
      Application.put_env(:foundation, :feature_flags, use_genserver_telemetry: 40)

      assert FeatureFlags.load_from_config() == :ok

      assert FeatureFlags.list_all() == %{
               use_ets_agent_registry: false,
               use_logger_error_context: true,
               use_genserver_telemetry: 40,
               enforce_no_process_dict: false
             }
    end

    test "change nothing if one of them is invalid" do
      before = FeatureFlags.list_all()

      for {wrong, reason} <- [
            {[use_ets_agent_registry: false, magic: true], {:unknown_flag, :magic}},
            {[use_ets_agent_registry: :no], {:invalid_value, :no}},
            {:all, {:invalid_value, :all}}
          ] do
        Application.put_env(:foundation, :feature_flags, wrong)
        assert FeatureFlags.load_from_config() == {:error, reason}
        assert FeatureFlags.list_all() == before
      end
    end

    test "that are invalid fail the application's start with the reason" do
      Application.put_env(:foundation, :feature_flags, use_ets_agent_registy: true)

      assert {:error, message} = FeatureFlags.boot()
      assert message =~ "config :foundation, :feature_flags: expected a flag to be one of"
      assert message =~ "did you mean :use_ets_agent_registry?"
    end
  end

  test "a kill of the server changes no flag" do
    :ok = FeatureFlags.set_percentage(:use_ets_agent_registry, 17)
    :ok = FeatureFlags.disable(:use_genserver_telemetry)
    before = FeatureFlags.list_all()

    server = Process.whereis(FeatureFlags)
    reference = Process.monitor(server)
    Process.exit(server, :kill)
    assert_receive {:DOWN, ^reference, _, _, :killed}

    assert FeatureFlags.list_all() == before
    # Once the supervisor answers, it has handled the exit.
    assert {_, pid, _, _} =
             Foundation.Supervisor
             |> Supervisor.which_children()
             |> List.keyfind(FeatureFlags, 0)

    assert is_pid(pid) and pid != server
    assert FeatureFlags.list_all() == before
  end

  test "flags can be read but not set while the server is down" do
    :ok = Supervisor.terminate_child(Foundation.Supervisor, FeatureFlags)
    on_exit(fn -> Supervisor.restart_child(Foundation.Supervisor, FeatureFlags) end)

    assert FeatureFlags.enabled?(:use_ets_agent_registry)
    assert FeatureFlags.disable(:use_ets_agent_registry) == {:error, :unavailable}
    assert FeatureFlags.reset_all() == {:error, :unavailable}
    assert FeatureFlags.enabled?(:use_ets_agent_registry)

    {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, FeatureFlags)
  end

  describe "a server that is killed" do
    setup do
      :ok = Supervisor.terminate_child(Foundation.Supervisor, FeatureFlags)
      on_exit(fn -> Supervisor.restart_child(Foundation.Supervisor, FeatureFlags) end)
    end

    test "after a change and before its answer has kept the change" do
      stand_in(fn {:put, changes} -> Table.put(changes) end)
      assert FeatureFlags.disable(:use_ets_agent_registry) == :ok
      refute FeatureFlags.enabled?(:use_ets_agent_registry)
    end

    test "in the middle of a change leaves the flags unchanged" do
      flag = :use_genserver_telemetry
      mode = FeatureFlags.mode(flag)

      stand_in(fn {:put, [{^flag, false}]} ->
        :persistent_term.put(Table.mode_key(flag), :legacy)
        Foundation.Legacy.Telemetry.divert(:legacy)
      end)

      assert FeatureFlags.disable(flag) == {:error, :unavailable}
      {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, FeatureFlags)
      assert FeatureFlags.enabled?(flag)
      assert FeatureFlags.mode(flag) == mode
      refute Foundation.Legacy.Telemetry.on?()
    end

    # Does what the server does in one call, and is killed before it answers.
    defp stand_in(work) do
      test = self()

      spawn_link(fn ->
        Process.register(self(), FeatureFlags)
        Process.unlink(test)
        send(test, :registered)

        receive do
          {:"$gen_call", _from, call} -> work.(call)
        end

        Process.exit(self(), :kill)
      end)

      assert_receive :registered
    end
  end

  test "concurrent changes from many processes are all kept" do
    for _round <- 1..20 do
      @flags
      |> Enum.map(&Task.async(fn -> FeatureFlags.set_percentage(&1, 33) end))
      |> Task.await_many(30_000)

      assert FeatureFlags.list_all() == Map.new(@flags, &{&1, 33})
      :ok = FeatureFlags.reset_all()
    end
  end

  describe "the mode of an area" do
    test "is shared until its flag has been off, then carries over the rest" do
      flag = :use_logger_error_context

      # As after a start of the application.
      :ok = FeatureFlags.boot()
      assert FeatureFlags.mode(flag) == :shared
      :ok = FeatureFlags.disable(flag)
      assert FeatureFlags.mode(flag) == :legacy
      :ok = FeatureFlags.enable(flag)
      assert FeatureFlags.mode(flag) == :carrying
      :ok = FeatureFlags.boot()
    end

    test "raises with the flag off and the process dictionary disallowed" do
      :ok = FeatureFlags.enable(:enforce_no_process_dict)
      :ok = FeatureFlags.disable(:use_genserver_telemetry)
      assert FeatureFlags.mode(:use_genserver_telemetry) == :refused
      :ok = FeatureFlags.disable(:enforce_no_process_dict)
      assert FeatureFlags.mode(:use_genserver_telemetry) == :legacy
    end
  end
end
