defmodule Foundation.ErrorContext.Store do
  @moduledoc false
  # The context of the calling process, in the backend that the flags choose. On the first call
  # after a change of the flags, the context moves to the other backend. No context is lost, in
  # either direction and at any depth of `with_context/2`.

  alias Foundation.ErrorContext
  alias Foundation.ErrorContext.Backends.LoggerMetadata
  alias Foundation.FeatureFlags.Table
  alias Foundation.Legacy

  @mode Table.mode_key(:use_logger_error_context)
  @compile {:inline, mode: 0}

  @spec get() :: ErrorContext.t() | nil
  def get do
    case mode() do
      :shared -> LoggerMetadata.get()
      mode -> moved(mode).get()
    end
  end

  @spec set(ErrorContext.t()) :: non_neg_integer
  def set(context) do
    case mode() do
      :shared -> LoggerMetadata.set(context)
      mode -> moved(mode).set(context)
    end
  end

  @spec clear() :: :ok
  def clear do
    case mode() do
      :shared -> LoggerMetadata.clear()
      mode -> moved(mode).clear()
    end
  end

  @spec enter(ErrorContext.t(), :merge | :replace) :: {pos_integer | :over, term} | :full
  def enter(context, how) do
    case mode() do
      :shared ->
        LoggerMetadata.enter(context, how)

      mode ->
        backend = moved(mode)
        # Save both, because the context may move while the function runs.
        both = {:both, :logger.get_process_metadata(), Legacy.Context.entry()}
        with {depth, _saved} <- backend.enter(context, how), do: {depth, both}
    end
  end

  @spec leave(term) :: :ok
  def leave({:both, metadata, entry}) do
    LoggerMetadata.leave(metadata)
    Legacy.Context.put(entry)
  end

  def leave(saved) do
    # If the context has moved meanwhile, it belongs to the level that ends. The check for a level
    # costs half as much as a read of the flag.
    if not LoggerMetadata.entered?() and mode() != :shared,
      do: Legacy.Context.take()

    LoggerMetadata.leave(saved)
  end

  @doc "Moves what the calling process has to where the flags say that it is."
  @spec carry_over() :: :ok
  def carry_over do
    with mode when mode != :shared <- mode(), do: moved(mode)
    :ok
  end

  @doc "The context of another process of this node, or `nil`."
  @spec get_of(pid) :: ErrorContext.t() | nil
  def get_of(pid) when node(pid) == node() do
    case Process.info(pid, :dictionary) do
      {:dictionary, dictionary} ->
        # `:logger` has no function for the metadata of another process, so this reads its entry. If
        # that entry ever moves, no context is found here, and nothing else happens.
        metadata = List.keyfind(dictionary, :"$logger_metadata$", 0, {nil, %{}})
        {_key, metadata} = metadata
        LoggerMetadata.context_of(metadata) || Legacy.Context.context_of_dictionary(dictionary)

      nil ->
        nil
    end
  end

  def get_of(_remote), do: nil

  defp mode, do: :persistent_term.get(@mode, :shared)

  defp moved(:carrying) do
    with {context, depth} <- Legacy.Context.take(), do: LoggerMetadata.adopt(context, depth)
    LoggerMetadata
  end

  defp moved(:legacy) do
    with {context, depth} <- LoggerMetadata.take(), do: Legacy.Context.put({context, depth})
    Legacy.Context
  end

  defp moved(:refused), do: Legacy.Context
end
