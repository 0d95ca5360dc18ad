defmodule Foundation.ErrorContextTest do
  # Not async: the flags, which choose the backend, are global.
  use Foundation.Case, async: false
  use Foundation.Conformance.ErrorContext, flag: true

  alias Foundation.ErrorContext.Raised

  setup do
    # As after a start: no process has a context to carry over.
    :ok = FeatureFlags.boot()
  end

  doctest ErrorContext
  doctest Foundation.RequestContext

  describe "Logger metadata" do
    test "holds the context itself and each of its values under its own key" do
      context = %{request_id: 123, user: "ada", nested: %{a: 1}, nothing: nil, pid: :forged}
      ErrorContext.set_context(context)

      metadata = Map.new(Logger.metadata())
      assert metadata.error_context === context
      assert metadata.request_id === 123
      assert metadata.user === "ada"
      assert metadata.nested === %{a: 1}
      refute Map.has_key?(metadata, :nothing)
      refute Map.has_key?(metadata, :pid)
    end

    test "drops the previous context and keeps the user's own keys" do
      for {before, context} <- [
            {%{a: 1, b: 1}, %{b: 2, c: 2}},
            {%{a: 1}, %{a: 2}},
            {%{a: [1]}, %{b: [2]}},
            {%{a: 1}, %{"a" => 1}}
          ] do
        Logger.reset_metadata(own: "mine")
        ErrorContext.set_context(before)
        ErrorContext.set_context(context)

        printed = for {key, value} <- context, is_atom(key), do: {key, value}
        metadata = Logger.metadata() |> Keyword.drop([:error_context, :error_context_frame])

        assert Enum.sort(Keyword.keys(metadata)) ==
                 Enum.sort([:own | Keyword.keys(printed)])

        assert metadata[:own] == "mine"
        ErrorContext.clear_context()
        assert Logger.metadata() == [own: "mine"]
      end
    end

    test "restores a user's value that the context had hidden" do
      for hiding <- [%{user: "context"}, %{user: "context", list: [1]}] do
        Logger.reset_metadata(user: "mine")
        ErrorContext.set_context(hiding)
        ErrorContext.set_context(hiding)
        assert Logger.metadata()[:user] == "context"
        ErrorContext.set_context(%{other: 1})
        assert Logger.metadata()[:user] == "mine"

        ErrorContext.with_context(hiding, fn ->
          assert Logger.metadata()[:user] == "context"
          ErrorContext.clear_context()
          assert Logger.metadata()[:user] == "mine"
        end)

        ErrorContext.clear_context()
        assert Logger.metadata() == [user: "mine"]
      end
    end

    test "keeps a value that the user sets over a key of the context" do
      ErrorContext.set_context(%{user: "context", a: 1})
      Logger.metadata(user: "later")
      ErrorContext.clear_context()
      assert Logger.metadata() == [user: "later"]
    end

    test "is unchanged after with_context/2, even when it was empty" do
      for own <- [[], [own: 1], [request_id: "mine", own: 1], [error_context: "text"]] do
        Logger.reset_metadata(own)
        before = :logger.get_process_metadata()

        for context <- [%{request_id: 1}, %{request_id: [1]}, %{own: nil}, %{}],
            nest <- [&ErrorContext.with_context/2, &ErrorContext.with_temporary_context/2] do
          nest.(context, fn ->
            Logger.metadata(inside: 1, own: 2)
            ErrorContext.with_context(%{own: 3}, fn -> :ok end)
          end)

          assert :logger.get_process_metadata() === before
        end
      end

      :logger.unset_process_metadata()
      ErrorContext.with_context(%{request_id: 1}, fn -> :ok end)
      assert :logger.get_process_metadata() == :undefined
    end

    test "follows each nested level, even when a level removes a value" do
      ErrorContext.with_context(%{a: 1, b: [1]}, fn ->
        ErrorContext.with_context(%{a: nil, c: {3}}, fn ->
          metadata = Map.new(Logger.metadata())
          refute Map.has_key?(metadata, :a)
          assert %{b: [1], c: {3}} = metadata
        end)

        ErrorContext.with_temporary_context(%{d: 4}, fn ->
          assert [:d] == Keyword.keys(Logger.metadata()) -- [:error_context, :error_context_frame]
        end)

        assert Logger.metadata()[:a] == 1
      end)
    end

    test "has the ids and the metadata of an operation" do
      context = ErrorContext.new(__MODULE__, :test, metadata: %{user: "ada", module: :forged})
      ErrorContext.set_context(context)

      metadata = Logger.metadata()
      assert metadata[:operation_id] == context.operation_id
      assert metadata[:correlation_id] == context.correlation_id
      assert metadata[:user] == "ada"
      assert metadata[:module] == nil
      assert metadata[:breadcrumbs] == nil
    end

    test "equals a plain model after each random step" do
      # A small model: the process's own metadata, and a stack of contexts over it.
      keys = [:a, :b, :c, :d]
      values = [1, "two", nil, [3], %{four: 4}, :five]
      :rand.seed(:exsss, {1, 2, 3})

      for _round <- 1..300 do
        :logger.unset_process_metadata()
        own = Map.new(Enum.take_random(keys, 2), &{&1, {:own, &1}})
        Logger.reset_metadata(Map.to_list(own))

        random = fn ->
          Map.new(Enum.take_random(keys, Enum.random(0..3)), &{&1, Enum.random(values)})
        end

        check = fn context ->
          assert ErrorContext.get_context() === context
          metadata = Map.new(Logger.metadata())

          for key <- keys do
            expected = if context[key] != nil, do: context[key], else: own[key]
            assert Map.get(metadata, key) === expected
          end
        end

        outer = Enum.random([%{}, random.()])
        if outer != %{}, do: ErrorContext.set_context(outer)
        check.(outer)

        {inner, innermost, set} = {random.(), random.(), random.()}

        ErrorContext.with_context(inner, fn ->
          check.(Map.merge(outer, inner))

          ErrorContext.with_context(innermost, fn ->
            check.(outer |> Map.merge(inner) |> Map.merge(innermost))
          end)

          ErrorContext.set_context(set)
          check.(set)
          ErrorContext.clear_context()
          check.(%{})
        end)

        check.(outer)
        ErrorContext.set_context(again = random.())
        check.(again)
        ErrorContext.clear_context()
        assert Map.new(Logger.metadata()) == own
      end
    end
  end

  describe "the context retained for a raise" do
    test "belongs to that raise and not to an earlier rescued one" do
      for id <- 1..3 do
        enriched =
          try do
            ErrorContext.with_context(%{id: id}, fn -> raise "always the same" end)
          rescue
            exception -> ErrorContext.enrich_error(exception)
          end

        assert enriched.context == %{id: id}
      end
    end

    test "is not used for an equal exception rescued in a later context" do
      rescued = fn fun ->
        try do
          fun.()
        rescue
          exception -> ErrorContext.enrich_error(exception).context
        end
      end

      raising = fn -> raise "timeout" end

      assert rescued.(fn -> ErrorContext.with_context(%{request: 1}, raising) end) == %{
               request: 1
             }

      ErrorContext.with_context(%{request: 2}, fn ->
        assert rescued.(raising) == %{request: 2}
      end)

      ErrorContext.set_context(%{request: 3})
      assert rescued.(raising) == %{request: 3}
    end

    test "is that of the innermost level, even after a reraise" do
      context =
        try do
          ErrorContext.with_context(%{outer: 1}, fn ->
            try do
              ErrorContext.with_context(%{inner: 2}, fn -> raise ArgumentError, "again" end)
            rescue
              exception -> reraise exception, __STACKTRACE__
            end
          end)
        rescue
          exception -> ErrorContext.enrich_error(exception).context
        end

      assert context == %{outer: 1, inner: 2}
    end

    test "is that of the innermost level in evaluated code" do
      {context, _binding} =
        Code.eval_string("""
        try do
          Foundation.ErrorContext.with_context(%{outer: 1}, fn ->
            Foundation.ErrorContext.with_context(%{inner: 2}, fn -> raise "again" end)
          end)
        rescue
          exception -> Foundation.ErrorContext.enrich_error(exception).context
        end
        """)

      assert context == %{outer: 1, inner: 2}
    end

    test "is retained for VM errors, throws and exits" do
      for {raise, kind} <- [
            {fn -> :erlang.error(:badarith) end, :error},
            {fn -> apply(String, :to_atom, [1]) end, :error},
            {fn -> exit({:because, 1}) end, :exit},
            {fn -> apply(Map, :fetch!, [%{}, :a]) end, :error}
          ] do
        error =
          try do
            ErrorContext.with_context(%{a: 1}, raise)
          rescue
            exception -> exception
          catch
            ^kind, reason -> reason
          end

        assert ErrorContext.enrich_error(error) == %{error: error, context: %{a: 1}}
      end
    end

    test "is the current context for a reason that was never raised" do
      ErrorContext.set_context(%{now: 1})
      catch_error(ErrorContext.with_context(%{a: 1}, fn -> raise "one" end))

      assert ErrorContext.enrich_error(%RuntimeError{message: "two"}).context == %{now: 1}
      assert ErrorContext.enrich_error(:reason).context == %{now: 1}

      assert ErrorContext.enrich_error({:error, :r}) ==
               {:error, %{reason: :r, context: %{now: 1}}}
    end

    test "belongs to one process only" do
      worker = start_worker()

      raising = fn ->
        catch_error(ErrorContext.with_context(%{at: self()}, fn -> raise "x" end))
      end

      exception = raising.()
      run(worker, raising)

      assert ErrorContext.enrich_error(exception).context == %{at: self()}
      assert run(worker, fn -> ErrorContext.enrich_error(exception).context end) == %{at: worker}
    end

    test "takes one row per process, removed however the process ends" do
      for reason <- [:kill, :crash] do
        worker = start_worker()

        run(worker, fn ->
          for n <- 1..100 do
            catch_error(ErrorContext.with_context(%{n: n}, fn -> raise "#{n}" end))
          end
        end)

        assert [_one] = :ets.lookup(Raised, worker)
        kill(worker, reason)
        eventually(fn -> :ets.lookup(Raised, worker) == [] end)
      end

      task =
        Task.async(fn ->
          catch_error(ErrorContext.with_context(%{a: 1}, fn -> raise "a" end))
          self()
        end)

      pid = Task.await(task, 30_000)
      eventually(fn -> :ets.lookup(Raised, pid) == [] end)
    end

    test "is absent without a raise and never in the process dictionary" do
      keys = Process.get_keys() -- [:"$logger_metadata$"]
      ErrorContext.with_context(%{a: 1}, fn -> :ok end)
      assert :ets.lookup(Raised, self()) == []

      catch_error(ErrorContext.with_context(%{a: 1}, fn -> raise "a" end))
      assert Enum.sort(Process.get_keys() -- [:"$logger_metadata$"]) == Enum.sort(keys)
    end

    test "is reduced without failures while no Foundation process runs" do
      :ok = Supervisor.terminate_child(Foundation.Supervisor, Raised)
      on_exit(fn -> Supervisor.restart_child(Foundation.Supervisor, Raised) end)

      exception =
        catch_error(
          ErrorContext.with_context(%{a: 1}, fn -> raise ArgumentError, "still this" end)
        )

      assert exception == %ArgumentError{message: "still this"}
      assert ErrorContext.enrich_error(exception) == %{error: exception, context: %{}}
      assert ErrorContext.get_context() == %{}
      {:ok, _pid} = Supervisor.restart_child(Foundation.Supervisor, Raised)

      catch_error(ErrorContext.with_context(%{a: 1}, fn -> raise ArgumentError, "still this" end))
      assert ErrorContext.enrich_error(exception).context == %{a: 1}
    end

    test "starts empty after its owner is killed" do
      catch_error(ErrorContext.with_context(%{a: 1}, fn -> raise "x" end))
      owner = Process.whereis(Raised)
      kill(owner)
      eventually(fn -> Process.whereis(Raised) not in [nil, owner] end)

      assert catch_error(ErrorContext.with_context(%{a: 2}, fn -> raise "x" end))
      assert ErrorContext.enrich_error(%RuntimeError{message: "x"}).context == %{a: 2}
      assert {_id, _filter} = List.keyfind(:logger.get_primary_config().filters, ErrorContext, 0)
    end
  end

  describe "bounds" do
    test "a value over the bound is truncated and ends in …" do
      ErrorContext.set_context(%{
        long: String.duplicate("x", 1_000_000),
        wide: String.duplicate("ä€😀", 10_000),
        list: Enum.to_list(1..100_000),
        number: Integer.pow(7, 200_000),
        deep: Enum.reduce(1..10_000, [], fn _, inner -> [inner, inner] end),
        short: "short"
      })

      metadata = Logger.metadata()
      assert metadata[:short] == "short"

      for key <- [:long, :wide, :list, :number, :deep] do
        assert String.valid?(metadata[key])
        assert String.ends_with?(metadata[key], "…"), "#{key}: #{metadata[key]}"
        assert byte_size(metadata[key]) <= 1_024 + byte_size("…")
      end
    end

    test "a value of exactly the bound is not truncated" do
      for value <- [
            String.duplicate("x", 1_024),
            String.duplicate("ä", 512),
            Enum.to_list(1..200)
          ] do
        ErrorContext.set_context(%{value: value})
        refute String.ends_with?(Logger.metadata()[:value], "…")
      end
    end

    test "values over the total bound are left out and counted" do
      context = Map.new(1..10_000, &{:"bounded_#{&1}", "value #{&1}"})
      ErrorContext.set_context(context)

      metadata = Keyword.drop(Logger.metadata(), [:error_context, :error_context_frame])
      {cut, printed} = Keyword.pop!(metadata, :error_context_cut)
      assert cut + length(printed) == 10_000
      assert :erlang.external_size(printed) < 20_000
      assert ErrorContext.get_context() === context
      ErrorContext.clear_context()
      assert Logger.metadata() == []
    end

    test "a breadcrumb over the bound replaces the oldest one" do
      for context <- [%{request_id: 1}, ErrorContext.new(__MODULE__, :test)] do
        context =
          Enum.reduce(
            1..10_000,
            context,
            &ErrorContext.add_breadcrumb(&2, __MODULE__, :step, %{n: &1})
          )

        assert Enum.map(context.breadcrumbs, & &1.metadata.n) == Enum.to_list(9_901..10_000)
      end
    end

    test "beyond the level bound the function runs, the context stays, and one warning is logged" do
      log =
        ExUnit.CaptureLog.capture_log(fn ->
          context = deep(1_010, &ErrorContext.get_context/0)
          assert context == %{level: 11}
          assert ErrorContext.get_context() == %{}
        end)

      assert [_before, _after] = String.split(log, "expected at most 1000 nested contexts")
    end

    test "a chain of child contexts stays within the bound" do
      context =
        Enum.reduce(1..5_000, ErrorContext.new(__MODULE__, :test), fn _, parent ->
          ErrorContext.child_context(parent, __MODULE__, :test)
        end)

      assert length(parents(context)) <= 1_001
      assert context.correlation_id == List.last(parents(context)).correlation_id
    end

    defp deep(0, fun), do: fun.()
    defp deep(n, fun), do: ErrorContext.with_context(%{level: n}, fn -> deep(n - 1, fun) end)

    defp parents(nil), do: []
    defp parents(context), do: [context | parents(context.parent_context)]
  end

  describe "errors" do
    test "that already have a context get the new keys merged in" do
      assert ErrorContext.enhance_error(%{error: :e, context: %{a: 1}}, %{b: 2}) ==
               %{error: :e, context: %{a: 1, b: 2}}

      assert {:error, :r}
             |> ErrorContext.add_context(%{a: 1})
             |> ErrorContext.add_context(%{b: 2}, %{c: 3}) ==
               {:error, %{reason: :r, context: %{a: 1, b: 2, c: 3}}}
    end

    test "a result that is not an error is returned unchanged" do
      for result <- [:ok, {:ok, 1}, :error, nil, {:error, 1, 2}] do
        assert ErrorContext.add_context(result, %{a: 1}) == result
      end
    end

    test "a context that is not a map raises before anything changes" do
      for wrong <- [nil, [], [a: 1], "context", :context] do
        assert_raise FunctionClauseError, fn -> ErrorContext.set_context(wrong) end
        assert_raise FunctionClauseError, fn -> ErrorContext.with_context(wrong, fn -> 1 end) end
      end

      assert_raise ArgumentError, fn -> ErrorContext.get_context(caller: true) end
      assert ErrorContext.get_context() == %{}
      assert_raise ArgumentError, fn -> ErrorContext.new(A, :b, metadat: %{}) end
    end

    test "a function of another arity, or none, raises ArgumentError before anything changes" do
      for wrong <- [fn _, _ -> 1 end, 1, nil, {IO, :puts, []}] do
        for use <- [
              &ErrorContext.with_context(%{a: 1}, &1),
              &ErrorContext.with_temporary_context(%{a: 1}, &1),
              &ErrorContext.spawn_with_context/1,
              &ErrorContext.spawn_link_with_context/1,
              &ErrorContext.async/1,
              &Foundation.RequestContext.with_request_id("r-1", &1),
              &Foundation.Telemetry.Span.with_span_fun(:name, %{}, &1),
              &Foundation.Telemetry.Span.with_propagated_context(nil, &1)
            ] do
          message = "expected a function of arity 0, got: #{inspect(wrong)}"
          assert_raise ArgumentError, message, fn -> use.(wrong) end
        end

        message = "expected a function of arity 1, got: #{inspect(wrong)}"
        assert_raise ArgumentError, message, fn -> ErrorContext.async_stream([1], wrong) end
      end

      assert ErrorContext.get_context() == %{}
      assert Foundation.Telemetry.Span.current_span() == nil
    end
  end

  describe "a request id" do
    alias Foundation.RequestContext

    test "is set beside the other metadata and removed with its context" do
      ErrorContext.set_context(%{user: "ada"})

      assert RequestContext.with_request_id("r-1", fn ->
               assert Logger.metadata()[:request_id] == "r-1"
               assert ErrorContext.get_context() == %{user: "ada", request_id: "r-1"}
               RequestContext.put_request_id("r-2")
               RequestContext.request_id()
             end) == "r-2"

      assert RequestContext.request_id() == nil
      assert ErrorContext.get_context() == %{user: "ada"}
    end

    test "is readable inside an operation" do
      ErrorContext.set_context(ErrorContext.new(__MODULE__, :test))
      assert RequestContext.request_id() == nil
      RequestContext.put_request_id("r-1")
      assert RequestContext.request_id() == "r-1"
      assert Logger.metadata()[:request_id] == "r-1"
      assert %ErrorContext{metadata: %{request_id: "r-1"}} = ErrorContext.get_context()
    end

    test "raises for nil" do
      assert_raise ArgumentError, fn -> RequestContext.put_request_id(nil) end
      assert_raise ArgumentError, fn -> RequestContext.with_request_id(nil, fn -> 1 end) end
    end

    test "is unique across many concurrent processes" do
      ids =
        1..8
        |> Enum.map(fn _ ->
          Task.async(fn -> for _ <- 1..1_000, do: RequestContext.new_request_id() end)
        end)
        |> Task.await_many(30_000)
        |> List.flatten()

      assert length(Enum.uniq(ids)) == 8_000
    end
  end
end
