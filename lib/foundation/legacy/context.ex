defmodule Foundation.Legacy.Context do
  @moduledoc false
  # For migration only: keeps the context in the process dictionary, under the key of the code
  # before the migration. Logger does not print it. Under `:enforce_no_process_dict` every call
  # raises, except those that remove an entry.
  @behaviour Foundation.ErrorContext.Backend

  alias Foundation.{ErrorContext, FeatureFlags}
  alias Foundation.ErrorContext.Limits

  @context :error_context
  @depth :error_context_depth

  @impl true
  def get do
    allowed!()
    context_of(Process.get(@context))
  end

  @impl true
  def set(context) do
    allowed!()
    Process.put(@context, context)
    depth()
  end

  @impl true
  def clear do
    allowed!()
    Process.delete(@context)
    :ok
  end

  @impl true
  def enter(context, how) do
    allowed!()
    {old, depth} = saved = entry()
    max = Limits.max_depth()

    cond do
      depth < max ->
        put({merge(context_of(old), context, how), depth + 1})
        {depth + 1, saved}

      depth == max ->
        put({old, depth + 1})
        {:over, saved}

      true ->
        :full
    end
  end

  @impl true
  def leave(saved), do: put(saved)

  @doc "What there is of a context and of levels around it, to be put back as it is."
  @spec entry() :: {term, non_neg_integer}
  def entry, do: {Process.get(@context), depth()}

  @doc "Takes a context over from elsewhere, at a depth that it has there, or none at all."
  @spec put({term, non_neg_integer}) :: :ok
  def put({context, depth}) do
    if context == nil, do: Process.delete(@context), else: Process.put(@context, context)
    if depth == 0, do: Process.delete(@depth), else: Process.put(@depth, depth)
    :ok
  end

  @doc "Takes the context out, with its depth, for elsewhere; `nil` if there is none."
  @spec take() :: {ErrorContext.t() | nil, non_neg_integer} | nil
  def take do
    case entry() do
      {context, 0} when not is_map(context) ->
        nil

      {context, depth} ->
        put({nil, 0})
        {context_of(context), depth}
    end
  end

  @doc "The context in a dictionary that was read elsewhere, or `nil`."
  @spec context_of_dictionary(keyword) :: ErrorContext.t() | nil
  def context_of_dictionary(dictionary) do
    case List.keyfind(dictionary, @context, 0) do
      {@context, context} -> context_of(context)
      nil -> nil
    end
  end

  defp merge(nil, context, _how), do: context
  defp merge(_old, context, :replace), do: context
  defp merge(old, context, :merge), do: ErrorContext.merge(old, context)

  defp depth, do: Process.get(@depth, 0)

  defp context_of(context) when is_map(context), do: context
  defp context_of(_other), do: nil

  defp allowed!, do: FeatureFlags.allow_process_dictionary!(:use_logger_error_context)
end
