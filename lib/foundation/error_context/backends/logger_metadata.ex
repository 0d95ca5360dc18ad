defmodule Foundation.ErrorContext.Backends.LoggerMetadata do
  @moduledoc false
  # The context is under `:error_context` in Logger's metadata of the process. Its values
  # (`Printable.flatten/1`) are beside it, under their own keys.
  #
  # A third key, `:error_context_frame`, holds `[depth, flat, shadowed]`: the number of enclosing
  # `enter/2` calls, the values beside the context, and the values that those hide, which come back
  # with `clear/0`. The key is left out where it would hold `[0, the context, %{}]`. It is a list
  # because Logger's formatter leaves lists out, whatever protocols an application implements. A
  # fourth element is the context itself, if `:error_context` holds another term
  # (`Printable.shown/1`).
  #
  # More than half of this module are clauses for the usual case: few keys with plain values. They
  # avoid building the flattened map, because a plain context is its own flattened map.
  @behaviour Foundation.ErrorContext.Backend

  alias Foundation.ErrorContext
  alias Foundation.ErrorContext.{Limits, Printable}

  # The depth limit cannot be less than this, so it is not read below this depth.
  @depth_unread 500

  @impl true
  def get do
    case :logger.get_process_metadata() do
      metadata when is_map(metadata) -> context_of(metadata)
      :undefined -> nil
    end
  end

  @impl true
  def set(context) do
    case :logger.get_process_metadata() do
      %{error_context_frame: [depth | _rest]} = metadata ->
        replace(metadata, context, depth)

      %{error_context: old} = metadata
      when map_size(metadata) == map_size(context) + 1 and map_size(old) == map_size(context) ->
        # Often the keys are the same and only values differ. Then the metadata has no other keys.
        if Printable.plain_in?(context, metadata) do
          :logger.set_process_metadata(Map.put(context, :error_context, context))
          0
        else
          replace(metadata, context, 0)
        end

      metadata when metadata == :undefined or metadata == %{} ->
        if Printable.plain?(context) do
          :logger.set_process_metadata(Map.put(context, :error_context, context))
          0
        else
          replace(%{}, context, 0)
        end

      metadata ->
        replace(metadata, context, 0)
    end
  end

  @impl true
  def clear do
    case :logger.get_process_metadata() do
      %{error_context_frame: [depth | _rest]} = metadata when depth > 0 ->
        # The depth does not belong to the context: the enclosing levels are still there.
        own = without_context(metadata)
        :logger.set_process_metadata(Map.put(own, :error_context_frame, [depth, %{}, %{}]))

      %{error_context: _context} = metadata ->
        put(without_context(metadata))

      _none ->
        :ok
    end
  end

  @impl true
  def enter(context, how) do
    case :logger.get_process_metadata() do
      none when none == :undefined or none == %{} ->
        if Printable.plain?(context) do
          context
          |> Map.put(:error_context, context)
          |> Map.put(:error_context_frame, [1, :itself, %{}])
          |> :logger.set_process_metadata()

          {1, none}
        else
          enter(none, %{}, nil, [0, :itself, %{}], context, how)
        end

      %{error_context_frame: frame} = metadata ->
        enter(metadata, metadata, context_of(metadata), frame, context, how)

      metadata ->
        enter(metadata, metadata, context_of(metadata), [0, :itself, %{}], context, how)
    end
  end

  @impl true
  def leave(:undefined), do: :logger.unset_process_metadata()
  def leave(metadata), do: :logger.set_process_metadata(metadata)

  @doc "Whether the process is in a level that was entered here, and has not been moved elsewhere."
  @spec entered?() :: boolean
  def entered? do
    case :logger.get_process_metadata() do
      %{error_context_frame: _frame} -> true
      _none -> false
    end
  end

  @doc """
  Adopts a context from the other backend, with the depth that it has there.
  """
  @spec adopt(ErrorContext.t(), non_neg_integer) :: :ok
  def adopt(context, depth) do
    write(own_metadata(), context, depth)
    :ok
  end

  @doc """
  Removes and returns the context with its depth, for the other backend. Returns `nil` if there is
  none.
  """
  @spec take() :: {ErrorContext.t() | nil, non_neg_integer} | nil
  def take do
    case :logger.get_process_metadata() do
      %{error_context_frame: [depth | _rest]} = metadata ->
        put(without_context(metadata))
        {context_of(metadata), depth}

      %{error_context: context} = metadata when is_map(context) ->
        put(without_context(metadata))
        {context, 0}

      _none ->
        nil
    end
  end

  @doc """
  Returns the context in the metadata of another process, or `nil`.
  """
  @spec context_of(map) :: ErrorContext.t() | nil
  def context_of(%{error_context_frame: [_depth, _flat, _shadowed, context]}), do: context
  def context_of(%{error_context: context}) when is_map(context), do: context
  def context_of(_metadata), do: nil

  defp enter(saved, metadata, old, [depth, flat, shadowed | _hidden] = frame, context, how) do
    if depth < @depth_unread or depth < Limits.max_depth() do
      merged = merge(old, context, how)

      case beside(metadata, old, merged, context, flat, how) do
        nil ->
          write(without_context(metadata), merged, depth + 1)

        beside ->
          beside
          |> Map.put(:error_context, merged)
          |> Map.put(:error_context_frame, [depth + 1, :itself, shadowed])
          |> :logger.set_process_metadata()
      end

      {depth + 1, saved}
    else
      over(saved, metadata, frame)
    end
  end

  # Counts one level too many, so that only the first level over the limit warns.
  defp over(saved, metadata, [depth | rest]) do
    if depth == Limits.max_depth() do
      frame = [depth + 1 | rest]
      :logger.set_process_metadata(Map.put(metadata, :error_context_frame, frame))
      {:over, saved}
    else
      :full
    end
  end

  defp merge(nil, context, _how), do: context
  defp merge(_old, context, :replace), do: context
  defp merge(old, context, :merge), do: ErrorContext.merge(old, context)

  # Returns the metadata with the context's keys in it, in the usual case: all values are plain, and
  # no key was there before. Otherwise returns nil.
  defp beside(metadata, nil, _merged, context, :itself, _how) do
    if Printable.plain?(context) do
      new = :maps.merge(metadata, context)
      if map_size(new) == map_size(metadata) + map_size(context), do: new
    end
  end

  defp beside(metadata, old, merged, context, :itself, :merge) when map_size(merged) <= 8 do
    if Printable.plain?(context) do
      new = :maps.merge(metadata, context)
      if map_size(new) - map_size(metadata) == map_size(merged) - map_size(old), do: new
    end
  end

  defp beside(_metadata, _old, _merged, _context, _flat, _how), do: nil

  defp replace(metadata, context, depth) do
    metadata |> without_context() |> write(context, depth)
  end

  # `own` is the metadata without the context.
  defp write(own, context, depth) do
    flat = Printable.flatten(context)
    shadowed = Map.take(own, Map.keys(flat))
    shown = Printable.shown(context)
    metadata = own |> Map.merge(flat) |> Map.put(:error_context, shown)
    flat = if flat == context and shown == context, do: :itself, else: flat

    case {depth, flat, shadowed} do
      {_depth, _flat, _shadowed} when shown != context ->
        put_frame(metadata, [depth, flat, shadowed, context])

      {0, :itself, none} when none == %{} ->
        :logger.set_process_metadata(metadata)

      {_depth, _flat, _shadowed} ->
        put_frame(metadata, [depth, flat, shadowed])
    end

    depth
  end

  defp put_frame(metadata, frame) do
    :logger.set_process_metadata(Map.put(metadata, :error_context_frame, frame))
  end

  # Returns the metadata without the context's values. A value that was set later under one of its
  # keys stays.
  defp without_context(metadata) do
    {flat, shadowed} =
      case metadata do
        %{error_context_frame: [_depth, :itself, shadowed | _hidden]} ->
          {context_of(metadata) || %{}, shadowed}

        %{error_context_frame: [_depth, flat, shadowed | _hidden]} ->
          {flat, shadowed}

        %{error_context: context} when is_map(context) ->
          {context, %{}}

        _none ->
          {%{}, %{}}
      end

    without = Map.drop(metadata, [:error_context, :error_context_frame])

    own =
      Enum.reduce(flat, without, fn {key, value}, own ->
        case own do
          %{^key => ^value} -> Map.delete(own, key)
          _changed -> own
        end
      end)

    Map.merge(shadowed, own)
  end

  defp own_metadata do
    case :logger.get_process_metadata() do
      :undefined -> %{}
      metadata -> without_context(metadata)
    end
  end

  defp put(metadata) when metadata == %{}, do: :logger.unset_process_metadata()
  defp put(metadata), do: :logger.set_process_metadata(metadata)
end
