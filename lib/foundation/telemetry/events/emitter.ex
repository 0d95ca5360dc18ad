defmodule Foundation.Telemetry.Events.Emitter do
  @moduledoc false
  # The functions that `use Foundation.Telemetry.SampledEvents` defines.

  alias Foundation.Telemetry.Events.Router

  defmacro define(options) do
    quote location: :keep do
      @foundation_event_prefix Foundation.Telemetry.Events.Emitter.prefix!(unquote(options))

      @doc "Emits the start of an operation."
      @spec emit_start(atom, map) :: :ok
      def emit_start(op, metadata \\ %{}) do
        :telemetry.execute(
          @foundation_event_prefix ++ [op, :start],
          %{system_time: System.system_time(), monotonic_time: System.monotonic_time()},
          metadata
        )
      end

      @doc "Emits the end of an operation."
      @spec emit_stop(atom, map, map) :: :ok
      def emit_stop(op, measurements, metadata \\ %{}) do
        :telemetry.execute(@foundation_event_prefix ++ [op, :stop], measurements, metadata)
      end

      @doc "Emits an event unless it is a repeat within its window."
      @spec emit_event(atom, map, map) :: :ok
      def emit_event(op, measurements, metadata \\ %{}) do
        Foundation.Telemetry.SampledEvents.emit_event(
          @foundation_event_prefix ++ [op],
          measurements,
          metadata
        )
      end

      @doc "Emits an event if `condition` holds and it is no repeat within its window."
      @spec emit_if(term, atom, map, map) :: :ok
      def emit_if(condition, op, measurements, metadata \\ %{}) do
        if condition, do: emit_event(op, measurements, metadata), else: :ok
      end

      @doc "Emits an event once in `window` milliseconds."
      @spec emit_once_per(atom, non_neg_integer, map, map) :: :ok
      def emit_once_per(op, window, measurements, metadata \\ %{}) do
        Foundation.Telemetry.SampledEvents.emit_event(
          @foundation_event_prefix ++ [op],
          measurements,
          metadata,
          window: window
        )
      end

      @doc "Appends an event to its batch."
      @spec batch_events(atom, map, map) :: :ok
      def batch_events(op, measurements, metadata \\ %{}) do
        Foundation.Telemetry.SampledEvents.emit_batched(
          @foundation_event_prefix ++ [op],
          measurements,
          metadata
        )
      end

      @doc "The value of the block, between a start and a stop event."
      defmacro span(op, metadata \\ Macro.escape(%{}), do: block) do
        event = @foundation_event_prefix

        quote do
          metadata = unquote(metadata)

          :telemetry.span(unquote(event) ++ [unquote(op)], metadata, fn ->
            {unquote(block), metadata}
          end)
        end
      end
    end
  end

  @doc """
  The `:prefix` of the options, or an `ArgumentError`.
  """
  @spec prefix!(keyword) :: [atom, ...]
  def prefix!(options) do
    case Keyword.pop(options, :prefix) do
      {nil, _rest} ->
        raise ArgumentError, "expected use Foundation.Telemetry.SampledEvents to be given :prefix"

      {prefix, []} ->
        Router.name!(prefix)

      {_prefix, rest} ->
        raise ArgumentError,
              "unknown option #{inspect(rest |> Keyword.keys() |> hd())} of " <>
                "use Foundation.Telemetry.SampledEvents, expected one of: [:prefix]"
    end
  end
end
