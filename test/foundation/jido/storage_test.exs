defmodule Foundation.Jido.StorageTest do
  use Foundation.Case, async: true

  import Foundation.DocsLog

  alias Foundation.EventLog
  alias Foundation.Jido.Storage
  alias Jido.Thread
  alias Jido.Thread.Entry

  @moduletag :tmp_dir

  doctest Storage

  setup %{tmp_dir: dir} do
    log = unique_name("log")
    start_supervised!({EventLog, name: log, dir: dir}, id: log)
    %{log: log, opts: [log: log]}
  end

  defp message(text), do: %{kind: :message, payload: %{text: text}}

  defp texts(thread), do: for(entry <- thread.entries, do: entry.payload.text)

  describe "a checkpoint" do
    test "is stored, replaced and deleted under any key", %{opts: opts} do
      large = Map.new(1..100, &{&1, self()})

      for key <- [:a, "a", {MyAgent, "1"}, {MyAgent, {"1", :partition}}, nil, 1, 1.0, large] do
        assert Storage.get_checkpoint(key, opts) == :not_found
        assert Storage.delete_checkpoint(key, opts) == :ok
        assert Storage.put_checkpoint(key, {:first, key}, opts) == :ok
        assert Storage.get_checkpoint(key, opts) == {:ok, {:first, key}}
        assert Storage.put_checkpoint(key, {:second, key}, opts) == :ok
        assert Storage.get_checkpoint(key, opts) == {:ok, {:second, key}}
        assert Storage.delete_checkpoint(key, opts) == :ok
        assert Storage.get_checkpoint(key, opts) == :not_found
        assert Storage.put_checkpoint(key, {:third, key}, opts) == :ok
      end

      assert Storage.get_checkpoint(1, opts) == {:ok, {:third, 1}}
      assert Storage.get_checkpoint(1.0, opts) == {:ok, {:third, 1.0}}
    end

    test "and a thread are there after the log was closed and opened", context do
      %{log: log, tmp_dir: dir, opts: opts} = context
      metadata = %{user: "ada"}
      :ok = Storage.put_checkpoint(:key, %{state: 1}, opts)
      {:ok, thread} = Storage.append_thread("t", [message("a")], [metadata: metadata] ++ opts)
      :ok = stop_supervised(log)
      start_supervised!({EventLog, name: log, dir: dir}, id: log)
      assert Storage.get_checkpoint(:key, opts) == {:ok, %{state: 1}}
      assert Storage.load_thread("t", opts) == {:ok, thread}
      assert thread.metadata == metadata
    end
  end

  describe "append_thread/3" do
    test "fills in what an entry lacks, and numbers the entries", %{opts: opts} do
      before = System.system_time(:millisecond)
      given = %Entry{id: "e", seq: 99, at: 5, kind: :note, payload: %{a: 1}, refs: %{r: 1}}
      bare = %{"kind" => :tool_call, "payload" => %{"x" => 1}}
      assert {:ok, %Thread{} = thread} = Storage.append_thread("t", [given, bare], opts)
      assert %{id: "t", rev: 2, metadata: %{}, stats: %{entry_count: 2}} = thread
      assert thread.created_at in before..System.system_time(:millisecond)
      assert thread.updated_at == thread.created_at
      assert [first, second] = thread.entries
      assert first == %Entry{given | seq: 0}
      assert %Entry{seq: 1, kind: :tool_call, payload: %{"x" => 1}, refs: %{}} = second
      assert second.at == thread.created_at
      assert "entry_" <> _id = second.id
      assert Storage.load_thread("t", opts) == {:ok, thread}
    end

    test "appends in one order, and keeps metadata and creation time", %{opts: opts} do
      first = [metadata: %{n: 1}] ++ opts
      assert {:ok, one} = Storage.append_thread("t", [message("a")], first)
      second = [metadata: %{n: 2}, expected_rev: 1] ++ opts
      assert {:ok, two} = Storage.append_thread("t", [message("b"), message("c")], second)
      assert {two.rev, two.metadata, two.created_at} == {3, %{n: 1}, one.created_at}
      assert texts(two) == ["a", "b", "c"]
      assert Enum.map(two.entries, & &1.seq) == [0, 1, 2]
      assert Storage.load_thread("t", opts) == {:ok, two}
    end

    test "with another :expected_rev is a conflict, and appends nothing", %{opts: opts} do
      append = fn rev ->
        Storage.append_thread("t", [message("a")], [expected_rev: rev] ++ opts)
      end

      assert append.(1) == {:error, :conflict}
      assert Storage.load_thread("t", opts) == :not_found
      assert {:ok, %{rev: 1}} = append.(0)
      assert append.(0) == {:error, :conflict}
      assert append.(2) == {:error, :conflict}
      assert {:ok, %{rev: 2}} = append.(1)
    end

    test "of no entries stores nothing", %{opts: opts} do
      assert {:ok, %Thread{rev: 0, entries: []}} = Storage.append_thread("t", [], opts)
      assert Storage.load_thread("t", opts) == :not_found
      {:ok, thread} = Storage.append_thread("t", [message("a")], opts)
      assert Storage.append_thread("t", [], opts) == {:ok, thread}
      assert Storage.append_thread("t", [], [expected_rev: 0] ++ opts) == {:error, :conflict}
    end

    test "of concurrent callers loses no entry, and each sees its own", %{opts: opts} do
      results =
        1..20
        |> Enum.map(&Task.async(fn -> Storage.append_thread("t", [message(&1)], opts) end))
        |> Task.await_many(:infinity)

      for {{:ok, thread}, n} <- Enum.zip(results, 1..20) do
        assert List.last(texts(thread)) == n
        assert length(thread.entries) == thread.rev
      end

      assert Enum.sort(for {:ok, thread} <- results, do: thread.rev) == Enum.to_list(1..20)
      assert {:ok, thread} = Storage.load_thread("t", opts)
      assert Enum.sort(texts(thread)) == Enum.to_list(1..20)
      assert Enum.map(thread.entries, & &1.seq) == Enum.to_list(0..19)
    end

    test "of concurrent callers that expect one rev succeeds for one of them", %{opts: opts} do
      results =
        1..20
        |> Enum.map(fn n ->
          Task.async(fn ->
            Storage.append_thread("t", [message(n)], [expected_rev: 0] ++ opts)
          end)
        end)
        |> Task.await_many(:infinity)

      assert [{:ok, thread}] = Enum.filter(results, &match?({:ok, _}, &1))
      assert Enum.count(results, &(&1 == {:error, :conflict})) == 19
      assert Storage.load_thread("t", opts) == {:ok, thread}
    end

    test "reads more entries than one call of the library returns", %{opts: opts} do
      {:ok, thread} = Storage.append_thread("t", for(n <- 1..2_500, do: message(n)), opts)
      assert thread.rev == 2_500
      assert {:ok, %{rev: 2_501} = thread} = Storage.append_thread("t", [message(2_501)], opts)
      assert texts(thread) == Enum.to_list(1..2_501)
    end
  end

  describe "a thread id" do
    test "is any string: empty, long, binary, with separators", %{opts: opts} do
      long = String.duplicate("x", 1_000)

      ids = [
        "",
        "a/b",
        "../x",
        <<0, 255>>,
        String.duplicate("x", 243),
        String.duplicate("x", 244),
        long,
        long <> "y"
      ]

      for id <- ids do
        assert Storage.load_thread(id, opts) == :not_found
        assert {:ok, %{id: ^id, rev: 1}} = Storage.append_thread(id, [message(id)], opts)
      end

      for id <- ids do
        assert {:ok, %{id: ^id, rev: 1} = thread} = Storage.load_thread(id, opts)
        assert texts(thread) == [id]
      end
    end

    test "that is no string is refused", %{opts: opts} do
      assert Storage.load_thread(:t, opts) == {:error, :invalid_thread_id}
      assert Storage.append_thread(nil, [], opts) == {:error, :invalid_thread_id}
      assert Storage.delete_thread(1, opts) == {:error, :invalid_thread_id}
    end
  end

  describe "delete_thread/2" do
    test "begins the thread again at 0, with new metadata", %{opts: opts} do
      assert Storage.delete_thread("t", opts) == :ok

      for round <- 1..3 do
        first = [expected_rev: 0, metadata: %{round: round}] ++ opts
        assert {:ok, one} = Storage.append_thread("t", [message("a"), message("b")], first)
        assert {one.rev, one.metadata} == {2, %{round: round}}
        assert {:ok, two} = Storage.append_thread("t", [message("c")], [expected_rev: 2] ++ opts)
        assert Enum.map(two.entries, & &1.seq) == [0, 1, 2]
        assert Storage.load_thread("t", opts) == {:ok, two}
        assert Storage.delete_thread("t", opts) == :ok
        assert Storage.load_thread("t", opts) == :not_found
        assert Storage.append_thread("t", [], [expected_rev: 3] ++ opts) == {:error, :conflict}
      end
    end

    test "that was killed half way has deleted the thread", %{log: log, opts: opts} do
      {:ok, _thread} = Storage.append_thread("t", [message("a"), message("b")], opts)
      # The first of its two steps.
      {:ok, 3} = EventLog.append(log, "jido/thread/t", [{:thread_deleted, nil, %{deleted: true}}])

      assert Storage.load_thread("t", opts) == :not_found
      assert {:ok, thread} = Storage.append_thread("t", [message("c")], [expected_rev: 0] ++ opts)
      assert {thread.rev, texts(thread)} == {1, ["c"]}
      assert {:ok, %{rev: 2}} = Storage.append_thread("t", [message("d")], opts)
      assert Storage.delete_thread("t", opts) == :ok
      assert Storage.load_thread("t", opts) == :not_found
    end

    test "leaves no thread with a gap to concurrent appends", %{opts: opts} do
      appends =
        for n <- 1..8 do
          Task.async(fn ->
            for m <- 1..10, do: Storage.append_thread("t", [message({n, m})], opts)
          end)
        end

      deletes = Task.async(fn -> for _ <- 1..10, do: Storage.delete_thread("t", opts) end)
      assert Enum.uniq(Task.await(deletes, :infinity)) == [:ok]

      for {:ok, thread} <- appends |> Task.await_many(:infinity) |> List.flatten() do
        assert Enum.map(thread.entries, & &1.seq) == Enum.to_list(0..(thread.rev - 1)//1)
      end

      case Storage.load_thread("t", opts) do
        {:ok, thread} ->
          assert Enum.map(thread.entries, & &1.seq) == Enum.to_list(0..(thread.rev - 1)//1)

        :not_found ->
          :ok
      end
    end
  end

  test "an entry's event has its kind as type, and its payload as data", context do
    %{log: log, opts: opts} = context
    {:ok, _thread} = Storage.append_thread("t", [message("a"), %{kind: :tool_call}], opts)
    assert [message, %{type: :tool_call}] = EventLog.read(log, "jido/thread/t")
    assert %{type: :message, data: %{text: "a"}, metadata: %{jido: {_id, _, %{}, _}}} = message
  end

  test "an entry's kind may be any term", %{opts: opts} do
    entries = for kind <- [:note, "text", {:tool, 1}, 7], do: %{kind: kind, refs: %{a: 1}}
    assert {:ok, thread} = Storage.append_thread("t", entries, opts)
    assert Enum.map(thread.entries, & &1.kind) == [:note, "text", {:tool, 1}, 7]
    assert Storage.load_thread("t", opts) == {:ok, thread}
  end

  test "options without a log, and an unknown log, are refused" do
    assert_raise ArgumentError, ~r/to have :log/, fn -> Storage.get_checkpoint(:a, []) end

    assert_raise ArgumentError, ~r/unknown event log/, fn ->
      Storage.load_thread("t", log: :none)
    end
  end
end
