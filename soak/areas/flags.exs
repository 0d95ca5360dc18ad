defmodule Soak.Flags do
  @moduledoc false
  # Flags, and the last step of a migration, forwards and backwards. That step changes nothing for a
  # process that does not use its process dictionary.

  @behaviour Soak.Area

  alias Foundation.{FeatureFlags, HealthCheck, Migration}
  alias Soak.{Epoch, Faults, Record}

  @impl true
  def name, do: "flags"

  @impl true
  def invariants, do: [flags: "flags or stages not as they were set"]

  @impl true
  def open(_options), do: Epoch.open([:flags])

  @impl true
  def crew do
    [
      %{count: 1, init: fn _index -> 4 end, step: &migrate/1},
      %{count: 1, init: & &1, step: &read/1}
    ]
  end

  @impl true
  def faults(_engine), do: [{"FeatureFlags killed", 3, fn -> Faults.kill(FeatureFlags) end}]

  # A step is refused while the flags' server, or a process that the step needs, is down.
  defp migrate(stage) do
    judged =
      Epoch.judge(:flags, fn _epoch ->
        found = Migration.status().stage
        Record.check!(:flags, found == stage, fn -> {found, :instead_of, stage} end)
        wanted = if stage == 4, do: 5, else: 4
        step = if stage == 4, do: &Migration.advance/0, else: &Migration.rollback/0

        reached =
          case step.() do
            {:ok, reached} -> reached
            {:error, _reason} -> stage
          end

        status = Migration.status()
        right? = reached in [stage, wanted] and status.stage == reached
        Record.check!(:flags, right?, fn -> {stage, reached, status} end)
        enforced? = FeatureFlags.enabled?(:enforce_no_process_dict)
        Record.check!(:flags, enforced? == (reached == 5), fn -> {enforced?, reached} end)
        reached
      end)

    Process.sleep(5)

    case judged do
      {:ok, stage} -> {3, stage}
      # After a restart of the application the flags are those of its configuration, or unchanged.
      :unjudged -> {0, Migration.status().stage}
    end
  end

  defp read(index) do
    Epoch.judge(:flags, fn _epoch ->
      for flag <- [:use_ets_agent_registry, :use_logger_error_context, :use_genserver_telemetry] do
        found = {FeatureFlags.enabled?(flag), FeatureFlags.enabled_for_id?(flag, index)}
        Record.check!(:flags, found == {true, true}, fn -> {flag, found} end)
      end

      # `HealthCheck.status/0` never raises.
      status = HealthCheck.status()
      Record.check!(:flags, status == :ok or match?({:degraded, _}, status), fn -> status end)
    end)

    Process.sleep(1)
    {7, index + 1}
  end

  @impl true
  def audit do
    for name <- [FeatureFlags, Foundation.ErrorContext.Raised], do: Faults.await(name)
    status = Foundation.HealthCheck.status()
    Record.check!(:flags, status == :ok, fn -> status end)
  end
end
