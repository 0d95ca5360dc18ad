defmodule Foundation.EventLog.LeaksTest do
  use Foundation.Case, async: true
  use Foundation.Alone

  alias Foundation.EventLog

  @moduletag :tmp_dir

  test "logs that were closed, killed and replaced leave nothing alive", %{tmp_dir: dir} do
    before =
      alone(fn ->
        before = counts()

        for round <- 1..5 do
          options = [name: :leaks, dir: Path.join(dir, "#{rem(round, 2)}"), adopt_timeout: 60_000]
          {:ok, owner} = EventLog.start_link(options)
          Process.unlink(owner)
          {:ok, _version} = EventLog.append(:leaks, "s", [{:event, round}])
          {:ok, _subscription} = EventLog.subscribe(:leaks, :all, :leaks)
          1 = counts().event_logs
          # The next one has another directory, and closes this one.
          if round < 5, do: kill(owner), else: GenServer.stop(owner)
        end

        eventually(fn -> counts() == before end)
        eventually(fn -> DynamicSupervisor.count_children(EventLog.Subscriptions).active == 0 end)
        before
      end)

    assert before.event_logs == 0
  end
end
