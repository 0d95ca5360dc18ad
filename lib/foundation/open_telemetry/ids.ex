if match?({:module, _}, Code.ensure_compiled(:opentelemetry)) do
  defmodule Foundation.OpenTelemetry.Ids do
    @moduledoc false
    # Gives OpenTelemetry the ids of a span, in place of random ones: as the id generator of a
    # tracer, whose functions take no argument. The ids stand in OpenTelemetry's context of the
    # calling process meanwhile.

    @key {__MODULE__, :ids}

    @doc "Runs `fun`, in which a span that starts has these ids. The trace's is for a root alone."
    @spec with_ids(pos_integer, pos_integer, (() -> result)) :: result when result: term
    def with_ids(trace_id, span_id, fun) do
      context = :otel_ctx.get_current()
      :otel_ctx.attach(:otel_ctx.set_value(context, @key, {trace_id, span_id}))

      try do
        fun.()
      after
        :otel_ctx.attach(context)
      end
    end

    @doc """
    Returns a tracer of the SDK with this generator. A tracer without one, as when no SDK is
    started, is returned as it is.
    """
    @spec tracer(term) :: term
    def tracer(tracer) do
      # Finding the generator asks the code server. The SDK keeps a tracer while it runs.
      case :persistent_term.get({__MODULE__, :tracer}, nil) do
        {^tracer, ours} ->
          ours

        _another ->
          ours = with_generator(tracer)
          :persistent_term.put({__MODULE__, :tracer}, {tracer, ours})
          ours
      end
    end

    defp with_generator({module, settings}) when is_tuple(settings) do
      settings =
        settings
        |> Tuple.to_list()
        |> Enum.map(&if(generator?(&1), do: __MODULE__, else: &1))
        |> List.to_tuple()

      {module, settings}
    end

    defp with_generator(tracer), do: tracer

    defp generator?(module) when is_atom(module),
      do: Code.ensure_loaded?(module) and function_exported?(module, :generate_span_id, 0)

    defp generator?(_other), do: false

    @spec generate_trace_id() :: pos_integer
    def generate_trace_id, do: elem(:otel_ctx.get_value(@key), 0)

    @spec generate_span_id() :: pos_integer
    def generate_span_id, do: elem(:otel_ctx.get_value(@key), 1)
  end
end
