defmodule Foundation.EventLog.AggregateTest do
  use Foundation.Case, async: true

  alias Foundation.EventLog
  alias Foundation.EventLog.Aggregate

  # For the examples of the documentation.
  import Foundation.DocsLog

  @moduletag :tmp_dir

  doctest Foundation.EventLog.Aggregate

  defmodule Account do
    use Foundation.EventLog.Aggregate

    @impl true
    def init(id), do: %{id: id, balance: 0}

    @impl true
    def handle_command({:deposit, amount}, _account), do: {:ok, [{:deposited, amount}]}
    def handle_command(:who, account), do: {:ok, [], account}
    def handle_command(:look, _account), do: {:ok, []}
    def handle_command({:tell, pid}, account), do: {:ok, [], send(pid, account)}
    def handle_command(:burst, _account), do: {:ok, List.duplicate({"deposited", 1, %{}}, 7)}

    def handle_command({:withdraw, amount}, %{balance: balance}) when amount > balance,
      do: {:error, :insufficient_funds}

    def handle_command({:withdraw, amount}, account),
      do: {:ok, [{:withdrawn, amount, %{at: :desk}}], account.balance - amount}

    @impl true
    def apply_event({type, amount, %{}}, account) when type in [:deposited, "deposited"],
      do: %{account | balance: account.balance + amount}

    def apply_event({:withdrawn, amount, %{at: :desk}}, account),
      do: %{account | balance: account.balance - amount}
  end

  setup %{tmp_dir: dir} do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    %{log: log}
  end

  defp start(log, options \\ []) do
    options = Keyword.merge([log: log, stream: "account-1"], options)
    start_supervised!({Account, options}, id: make_ref(), restart: :temporary)
  end

  test "aggregate: decides, appends and folds", %{log: log} do
    account = start(log, id: 7)
    assert Aggregate.execute(account, :who) == {:ok, 0, %{id: 7, balance: 0}}
    assert Aggregate.execute(account, {:deposit, 100}) == {:ok, 1}
    assert Aggregate.execute(account, {:withdraw, 30}) == {:ok, 2, 70}
    assert Aggregate.execute(account, {:withdraw, 80}) == {:error, :insufficient_funds}
    assert Aggregate.execute(account, :look) == {:ok, 2}
    assert Aggregate.execute(account, :burst) == {:ok, 9}

    assert [%{type: :deposited}, %{metadata: %{at: :desk}} | _burst] =
             EventLog.read(log, "account-1")
  end

  test "aggregate: comes back with every acknowledged event after a kill", %{log: log} do
    Enum.reduce(1..20, 0, fn round, balance ->
      account = start(log, snapshot_every: 3)
      assert {:ok, version, %{balance: ^balance}} = Aggregate.execute(account, :who)
      assert version == round - 1
      assert {:ok, ^round} = Aggregate.execute(account, {:deposit, round})
      kill(account)
      balance + round
    end)
  end

  test "aggregate: keeps a snapshot that is at most snapshot_every events and a command behind",
       %{log: log} do
    account = start(log, snapshot_every: 10)

    for _ <- 1..30 do
      {:ok, version} = Aggregate.execute(account, :burst)
      # The snapshot is written between two commands.
      {:ok, ^version} = Aggregate.execute(account, :look)

      case EventLog.get_snapshot(log, "account-1") do
        {:ok, at, %{balance: balance}} -> assert balance == at and version - at <= 10
        :error -> assert version < 10
      end
    end

    :ok = EventLog.trim(log, "account-1", before: 200)
    assert {:ok, 210, %{balance: 210}} = Aggregate.execute(start(log), :who)
  end

  test "aggregate: many callers share appends, and see each other's events", %{log: log} do
    account = start(log, snapshot_every: 50)

    versions =
      1..200
      |> Enum.map(fn _ -> Task.async(fn -> Aggregate.execute(account, {:deposit, 1}) end) end)
      |> Task.await_many(30_000)
      |> Enum.map(fn {:ok, version} -> version end)

    assert Enum.sort(versions) == Enum.to_list(1..200)
    assert {:ok, 200, %{balance: 200}} = Aggregate.execute(account, :who)
    assert EventLog.info(log).commits < 100
  end

  test "aggregate: decides again after a version conflict with another writer", %{log: log} do
    one = start(log)
    other = start(log)
    {:ok, 1} = Aggregate.execute(one, {:deposit, 100})
    assert Aggregate.execute(other, {:withdraw, 101}) == {:error, :insufficient_funds}
    assert Aggregate.execute(other, {:deposit, 1}) == {:ok, 2}
    assert Aggregate.execute(one, {:withdraw, 60}) == {:ok, 3, 41}
    assert Aggregate.execute(other, {:withdraw, 60}) == {:error, :insufficient_funds}

    [one, other, start(log)]
    |> Enum.flat_map(fn account ->
      for _ <- 1..50, do: Task.async(fn -> Aggregate.execute(account, {:deposit, 1}) end)
    end)
    |> Task.await_many(30_000)
    |> Enum.each(fn answer -> assert {:ok, _version} = answer end)

    assert {:ok, 153, %{balance: 191}} = Aggregate.execute(start(log), :who)
  end

  test "aggregate: folds every event of a writer that appends all the time", %{log: log} do
    account = start(log)
    appends = 1_000

    writer =
      Task.async(fn ->
        for _ <- 1..appends, do: {:ok, _} = EventLog.append(log, "account-1", [{:deposited, 1}])
      end)

    follow(account, appends)
    Task.await(writer, 60_000)
  end

  defp follow(account, last) do
    assert {:ok, version, %{balance: balance}} = Aggregate.execute(account, :who)
    assert balance == version
    if version < last, do: follow(account, last)
  end

  test "aggregate: invalid options raise, and a missing log is an error" do
    assert_raise ArgumentError, fn -> Account.start_link(stream: "a") end
    assert_raise ArgumentError, fn -> Account.start_link(log: :log) end

    assert_raise ArgumentError, ~r/did you mean :stream\?/, fn ->
      Account.start_link(log: :log, strem: "a")
    end

    Process.flag(:trap_exit, true)
    assert {:error, %ArgumentError{}} = Account.start_link(log: :nobody, stream: "a")
  end
end
