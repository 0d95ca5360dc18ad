defmodule Foundation.Conformance.ErrorContext do
  @moduledoc """
  Tests of a process's context that hold for every backend:

      use Foundation.Conformance.ErrorContext, flag: false

  Tests of Logger metadata are elsewhere, because the process dictionary has none.
  """

  defmacro __using__(flag: flag) do
    quote location: :keep do
      alias Foundation.{ErrorContext, FeatureFlags}

      setup do
        :ok = FeatureFlags.set(:use_logger_error_context, unquote(flag))
        on_exit(fn -> :ok = FeatureFlags.reset_all() end)
      end

      test "a new process has no context" do
        assert ErrorContext.get_context() == %{}
        assert ErrorContext.clear_context() == :ok
        assert ErrorContext.get_context() == %{}
      end

      test "get_context/0 returns exactly the context that was set" do
        for context <- [
              %{},
              %{request_id: 1},
              %{"string" => 1, 2 => 3, nil: nil, pid: self(), time: :mine},
              Map.new(1..100, &{:"context_key_#{&1}", &1}),
              ErrorContext.new(__MODULE__, :test, %{user: "ada"})
            ] do
          assert ErrorContext.set_context(context) == :ok
          assert ErrorContext.get_context() === context
          assert ErrorContext.with_context(%{}, &ErrorContext.get_context/0) === context
        end
      end

      test "set_context/1 replaces the context and clear_context/0 removes it" do
        ErrorContext.set_context(%{a: 1, b: 1})
        ErrorContext.set_context(%{b: 2})
        assert ErrorContext.get_context() == %{b: 2}
        assert ErrorContext.clear_context() == :ok
        assert ErrorContext.get_context() == %{}
      end

      test "with_context merges, with_temporary_context replaces, and both restore" do
        ErrorContext.set_context(%{a: 1, b: 1})

        assert :result =
                 ErrorContext.with_context(%{b: 2, c: 2}, fn ->
                   assert ErrorContext.get_context() == %{a: 1, b: 2, c: 2}

                   ErrorContext.with_temporary_context(%{d: 3}, fn ->
                     assert ErrorContext.get_context() == %{d: 3}
                   end)

                   assert ErrorContext.get_context() == %{a: 1, b: 2, c: 2}
                   :result
                 end)

        assert ErrorContext.get_context() == %{a: 1, b: 1}
      end

      test "the context is restored on return, raise, throw and exit" do
        inside = [
          fn -> :ok end,
          fn -> ErrorContext.set_context(%{inner: true}) end,
          fn -> ErrorContext.clear_context() end
        ]

        ends = [
          fn -> :returned end,
          fn -> raise "raised" end,
          fn -> throw(:thrown) end,
          fn -> exit(:exited) end,
          fn -> :erlang.error(:badarith) end
        ]

        for before <- [%{}, %{a: 1}], inside <- inside, ending <- ends do
          if before != %{}, do: ErrorContext.set_context(before)

          try do
            ErrorContext.with_context(%{b: 2}, fn ->
              inside.()
              ending.()
            end)
          catch
            _kind, _reason -> :ended
          end

          assert ErrorContext.get_context() == before
          ErrorContext.clear_context()
        end
      end

      test "a raise, throw or exit passes unchanged with its stacktrace" do
        for {kind, reason} <- [
              {:error, %ArgumentError{message: "mine"}},
              {:error, :badarith},
              {:throw, {:value, 1}},
              {:exit, :shutdown}
            ] do
          stacktrace =
            try do
              ErrorContext.with_context(%{a: 1}, fn -> :erlang.raise(kind, reason, []) end)
            catch
              ^kind, ^reason -> __STACKTRACE__
            end

          assert is_list(stacktrace)
        end

        stacktrace =
          try do
            ErrorContext.with_context(%{a: 1}, fn -> String.to_integer("no number") end)
          rescue
            ArgumentError -> __STACKTRACE__
          end

        assert [{:erlang, :binary_to_integer, _, _} | _] = stacktrace
      end

      test "500 nested levels merge and restore" do
        assert nest(1, 500) == Map.new(1..500, &{:"level_#{&1}", &1})
        assert ErrorContext.get_context() == %{}
      end

      test "each set and each level emits an event with its depth" do
        listen()
        ErrorContext.set_context(%{a: 1})
        assert_receive {:depth, 0}

        ErrorContext.with_context(%{b: 1}, fn ->
          assert_receive {:depth, 1}
          ErrorContext.set_context(%{c: 1})
          assert_receive {:depth, 1}
          ErrorContext.clear_context()
          ErrorContext.with_temporary_context(%{}, fn -> assert_receive {:depth, 2} end)
          ErrorContext.with_context(%{}, fn -> assert_receive {:depth, 2} end)
        end)

        ErrorContext.set_context(%{a: 1})
        assert_receive {:depth, 0}
        refute_received {:depth, _}
      end

      test "a struct merged with a map stays a struct, with the map in its metadata" do
        operation = ErrorContext.new(__MODULE__, :test, %{user: "ada"})
        ErrorContext.set_context(operation)

        ErrorContext.with_context(%{request_id: 1}, fn ->
          assert ErrorContext.get_context() ==
                   %{operation | metadata: %{user: "ada", request_id: 1}}
        end)

        ErrorContext.set_context(%{request_id: 1, user: "bob"})

        ErrorContext.with_context(operation, fn ->
          assert ErrorContext.get_context() ==
                   %{operation | metadata: %{user: "ada", request_id: 1}}
        end)

        ErrorContext.set_context(%{operation | metadata: %{request_id: 1}})

        ErrorContext.with_context(operation, fn ->
          assert ErrorContext.get_context() ==
                   %{operation | metadata: %{user: "ada", request_id: 1}}
        end)
      end

      test "the context is inherited from parent to child to grandchild" do
        context = %{request_id: 1, deep: [%{}]}
        test = self()

        ErrorContext.with_context(context, fn ->
          grandchild = fn ->
            ErrorContext.get_context() |> Map.put(:from, self()) |> then(&send(test, &1))
          end

          for start <- [
                &ErrorContext.spawn_with_context/1,
                &ErrorContext.spawn_link_with_context/1,
                &ErrorContext.async/1
              ] do
            start.(fn ->
              ErrorContext.with_context(%{child: 1}, fn ->
                Task.await(ErrorContext.async(grandchild))
              end)
            end)

            assert_receive %{request_id: 1, deep: [%{}], child: 1, from: pid} when pid != test
          end

          assert [ok: [ok: {3, ^context}]] =
                   [1]
                   |> ErrorContext.async_stream(fn one ->
                     [2]
                     |> ErrorContext.async_stream(&{one + &1, ErrorContext.get_context()},
                       timeout: 5_000
                     )
                     |> Enum.to_list()
                   end)
                   |> Enum.to_list()

          assert ErrorContext.get_context() == context
        end)
      end

      test "a propagated function uses its own context and restores the caller's" do
        fun =
          ErrorContext.with_context(%{request_id: 1}, fn ->
            ErrorContext.propagate(fn a, b -> {a + b, ErrorContext.get_context()} end)
          end)

        assert is_function(fun, 2)
        assert fun.(1, 2) == {3, %{request_id: 1}}
        assert ErrorContext.get_context() == %{}

        ErrorContext.with_context(%{own: 1}, fn ->
          assert fun.(1, 2) == {3, %{request_id: 1}}
          assert ErrorContext.get_context() == %{own: 1}
        end)

        assert Task.await(Task.async(fn -> {fun.(1, 2), ErrorContext.get_context()} end)) ==
                 {{3, %{request_id: 1}}, %{}}
      end

      test "inherited context comes from the nearest caller, and a process's own has priority" do
        callers = fn -> ErrorContext.get_context(callers: true) end
        assert callers.() == %{}
        ErrorContext.set_context(%{from: :test})

        assert Task.await(Task.async(callers)) == %{from: :test}
        assert Task.await(Task.async(&ErrorContext.get_context/0)) == %{}

        between = fn set ->
          Task.async(fn ->
            set.()
            Task.await(Task.async(callers))
          end)
        end

        assert Task.await(between.(fn -> :ok end)) == %{from: :test}

        assert Task.await(between.(fn -> ErrorContext.set_context(%{from: :child}) end)).from ==
                 :child

        own = fn ->
          ErrorContext.set_context(%{from: :own})
          callers.()
        end

        assert Task.await(Task.async(own)) == %{from: :own}
      end

      test "an exception is enriched with the context of its raise" do
        exception =
          try do
            ErrorContext.with_context(%{a: 1}, fn ->
              ErrorContext.with_context(%{b: 2}, fn -> raise "deep" end)
            end)
          rescue
            exception -> exception
          end

        assert ErrorContext.get_context() == %{}

        for _twice <- 1..2 do
          assert ErrorContext.enrich_error(exception) ==
                   %{error: %RuntimeError{message: "deep"}, context: %{a: 1, b: 2}}
        end

        assert ErrorContext.enrich_error({:error, exception}) ==
                 {:error, %{reason: exception, context: %{a: 1, b: 2}}}
      end

      test "an error of any kind is enriched with the context that it ended" do
        for {kind, reason} <- [
              {:throw, :thrown},
              {:throw, {:error, :thrown}},
              {:throw, {:error, {:deep, [1]}}},
              {:throw, %RuntimeError{message: "thrown"}},
              {:exit, :exited},
              {:exit, {:error, :exited}},
              {:error, :badarith},
              {:error, {:error, :raised}},
              {:error, %RuntimeError{message: "raised"}}
            ] do
          caught =
            try do
              ErrorContext.with_context(%{a: 1}, fn ->
                ErrorContext.with_context(%{b: 2}, fn -> :erlang.raise(kind, reason, []) end)
              end)
            catch
              ^kind, caught -> caught
            end

          context = %{a: 1, b: 2}

          expected =
            case caught do
              {:error, inner} -> {:error, %{reason: inner, context: context}}
              other -> %{error: other, context: context}
            end

          assert ErrorContext.enrich_error(caught) == expected, "#{kind} of #{inspect(reason)}"
        end

        # An equal reason that was not thrown since the context was set.
        ErrorContext.set_context(%{c: 3})

        assert ErrorContext.enrich_error({:error, :thrown}) ==
                 {:error, %{reason: :thrown, context: %{c: 3}}}
      end

      defp nest(level, level), do: in_level(level, &ErrorContext.get_context/0)
      defp nest(level, last), do: in_level(level, fn -> nest(level + 1, last) end)

      defp in_level(level, fun) do
        result = ErrorContext.with_context(%{:"level_#{level}" => level}, fun)
        assert map_size(ErrorContext.get_context()) == level - 1
        result
      end

      defp listen do
        test = self()

        :telemetry.attach(
          test,
          [:foundation, :error_context, :set],
          &__MODULE__.told/4,
          test
        )

        on_exit(fn -> :telemetry.detach(test) end)
      end

      # Other processes set contexts at the same time, so this ignores theirs.
      def told(_event, measurements, metadata, test) do
        if self() == test do
          assert metadata == %{}
          assert [depth: depth] = Map.to_list(measurements)
          send(test, {:depth, depth})
        end
      end
    end
  end
end
