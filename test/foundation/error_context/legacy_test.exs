defmodule Foundation.ErrorContext.LegacyTest do
  # Not async: the flags are global.
  use Foundation.Case, async: false
  use Foundation.Conformance.ErrorContext, flag: false

  import Foundation.Meanwhile

  setup do
    Process.delete(:error_context)
    :logger.unset_process_metadata()
    :ok
  end

  describe "with the flag off" do
    test "the context is in the process dictionary, and not in Logger metadata" do
      ErrorContext.set_context(%{request_id: 1})
      assert Process.get(:error_context) == %{request_id: 1}

      ErrorContext.with_context(%{a: 1}, fn ->
        assert Process.get(:error_context) == %{request_id: 1, a: 1}
        assert :logger.get_process_metadata() == :undefined
      end)

      ErrorContext.clear_context()
      refute :error_context in Process.get_keys()
      refute :error_context_depth in Process.get_keys()
    end

    test "a context that other code put in the process dictionary is used" do
      Process.put(:error_context, %{request_id: 1})
      assert ErrorContext.get_context() == %{request_id: 1}
    end

    test "every call raises with the reason when the process dictionary is disallowed" do
      ErrorContext.set_context(%{request_id: 1})
      :ok = FeatureFlags.enable(:enforce_no_process_dict)

      message =
        ~r/enforce_no_process_dict is on, got one because :use_logger_error_context is off/

      for use <- [
            fn -> ErrorContext.set_context(%{}) end,
            &ErrorContext.get_context/0,
            &ErrorContext.clear_context/0,
            fn -> ErrorContext.with_context(%{}, fn -> :ran end) end,
            fn -> ErrorContext.with_temporary_context(%{}, fn -> :ran end) end,
            fn -> ErrorContext.enrich_error(:reason) end
          ] do
        assert_raise RuntimeError, message, use
      end
    end
  end

  describe "when the flag changes" do
    defp on, do: :ok = FeatureFlags.enable(:use_logger_error_context)
    defp off, do: :ok = FeatureFlags.disable(:use_logger_error_context)

    test "the context of a process is kept and moves" do
      ErrorContext.set_context(%{request_id: 1})
      on()
      assert ErrorContext.get_context() == %{request_id: 1}
      assert Logger.metadata()[:request_id] == 1
      refute :error_context in Process.get_keys()

      off()
      assert ErrorContext.get_context() == %{request_id: 1}
      assert Logger.metadata() == []
      assert Process.get(:error_context) == %{request_id: 1}
    end

    test "a context set after the change replaces the one set before" do
      for {change, back} <- [{&on/0, &off/0}, {&off/0, &on/0}] do
        ErrorContext.set_context(%{before: 1})
        change.()
        ErrorContext.set_context(%{after: 1})
        assert ErrorContext.get_context() == %{after: 1}
        back.()
        assert ErrorContext.get_context() == %{after: 1}
        change.()
        ErrorContext.clear_context()
        back.()
        assert ErrorContext.get_context() == %{}
      end
    end

    test "a level that is open during the change ends where it began" do
      for first <- [&on/0, &off/0], outer <- [%{}, %{outer: 1}], ending <- [:return, :raise] do
        first.()

        :ok =
          if outer == %{}, do: ErrorContext.clear_context(), else: ErrorContext.set_context(outer)

        Logger.metadata(own: 1)

        try do
          ErrorContext.with_context(%{a: 1}, fn ->
            for {change, n} <- Enum.with_index([&off/0, &on/0, &off/0, &on/0, &on/0, &off/0]) do
              change.()
              assert ErrorContext.get_context() == Map.put(outer, :a, 1)

              ErrorContext.with_context(%{b: n}, fn ->
                assert ErrorContext.get_context() == Map.merge(outer, %{a: 1, b: n})
                if rem(n, 2) == 0, do: on(), else: off()
                ErrorContext.set_context(%{c: n})
                assert ErrorContext.get_context() == %{c: n}
              end)

              assert ErrorContext.get_context() == Map.put(outer, :a, 1)
            end

            if ending == :raise, do: raise("ended")
          end)
        rescue
          RuntimeError -> :ok
        end

        for last <- [&on/0, &off/0, &on/0] do
          last.()
          assert ErrorContext.get_context() == outer
          assert Logger.metadata()[:own] == 1
        end
      end
    end

    test "concurrent processes lose no context and no call raises" do
      change = fn ->
        on()
        off()
      end

      start = fn worker -> ErrorContext.set_context(%{worker: worker, n: nil}) end
      meanwhile(change, start, &work/2)
    end

    defp work(worker, n) do
      own = %{worker: worker, n: if(n > 0, do: n - 1)}
      assert ErrorContext.get_context() === own
      nested = Map.put(own, :n, n)

      ErrorContext.with_context(%{n: n}, fn ->
        assert ErrorContext.get_context() === nested

        exception = catch_error(ErrorContext.with_context(%{deep: n}, fn -> raise "#{n}" end))

        assert ErrorContext.enrich_error(exception).context === Map.put(nested, :deep, n)
        assert ErrorContext.get_context() === nested
      end)

      ErrorContext.set_context(nested)
    end
  end
end
