defmodule Bench.ErrorContext do
  @moduledoc false
  # A context against Logger metadata, which it is kept in, and a flag against a persistent term,
  # which it is read from. No handler is attached to the event.

  alias Bench.Row
  alias Foundation.{ErrorContext, FeatureFlags}

  @flag {__MODULE__, :flag}

  def rows do
    [
      %Row{
        name: :context_set,
        what: "set a context of 3 keys",
        theirs: "Logger.metadata",
        sizes: [3],
        target: {:at_most, 3.2},
        run: &set/2
      },
      %Row{
        name: :context_with,
        what: "run with a context of 3 keys",
        theirs: "two Logger.metadata",
        sizes: [3],
        target: {:at_most, 2.2},
        run: &with_context/2
      },
      %Row{
        name: :flag,
        what: "read a flag",
        theirs: "persistent_term",
        sizes: [1],
        target: {:at_most, 1.5},
        run: &flag/2
      }
    ]
  end

  defp set(_size, context) do
    ours = fn n ->
      ErrorContext.set_context(%{request_id: "req-123456", user_id: n, operation: :checkout})
    end

    theirs = fn n ->
      Logger.metadata(request_id: "req-123456", user_id: n, operation: :checkout)
    end

    pair(context, ours, theirs, fn ->
      Bench.check!("user_id", Logger.metadata()[:user_id], context.per_round)
    end)
  end

  defp with_context(_size, context) do
    ours = fn n ->
      ErrorContext.with_context(
        %{request_id: "req-123456", user_id: n, operation: :checkout},
        fn -> :ok end
      )
    end

    theirs = fn n ->
      Logger.metadata(request_id: "req-123456", user_id: n, operation: :checkout)
      Logger.metadata(request_id: nil, user_id: nil, operation: nil)
    end

    pair(context, ours, theirs, fn -> Bench.check!("metadata", Logger.metadata(), []) end)
  end

  defp flag(_size, context) do
    :persistent_term.put(@flag, true)

    ours = fn _n -> true = FeatureFlags.enabled?(:use_logger_error_context) end
    theirs = fn _n -> true = :persistent_term.get(@flag) end

    result = pair(context, ours, theirs, fn -> :ok end)
    :persistent_term.erase(@flag)
    result
  end

  # The metadata belong to this process. They are empty when a round begins.
  defp pair(context, ours, theirs, check) do
    operations = Enum.to_list(1..context.per_round)

    cost = fn fun ->
      fn _round ->
        :logger.unset_process_metadata()
        cost = Bench.each(operations, fun)
        check.()
        cost
      end
    end

    Bench.pinned(fn -> Bench.pair(context, cost.(ours), cost.(theirs), lower: true) end)
  end
end
