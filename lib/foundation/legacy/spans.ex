defmodule Foundation.Legacy.Spans do
  @moduledoc false
  # For migration only (`use_genserver_telemetry` off): keeps the stack of spans in the process
  # dictionary, innermost first. A process that dies takes its spans with it, without an event.

  alias Foundation.Telemetry.Span.Frame

  @key :span_stack

  def start(name, attributes) do
    stack = stack()
    span = Frame.span(List.first(stack), name, attributes)
    if Frame.kept?(span), do: put([span | stack])
    Frame.started(span)
  end

  def finish(nil) do
    case stack() do
      [%{} = span | stack] ->
        put(stack)
        Frame.ended(span)

      _none ->
        :error
    end
  end

  def finish(id) do
    case Enum.split_while(stack(), &(not match?(%{span_id: ^id}, &1))) do
      {_all, []} ->
        :error

      {inner, [span | outer]} ->
        put(inner ++ outer)
        Frame.ended(span)
    end
  end

  def current, do: Frame.view(List.first(stack()))

  def update(change) do
    case stack() do
      [%{} = span | stack] -> put([Frame.change(span, change) | stack])
      _none -> :error
    end
  end

  def enter(context) do
    remote = Frame.remote(List.first(stack()), context)
    put([remote | stack()])
    remote
  end

  def leave(remote) do
    {inner, outer} = Enum.split_while(stack(), &(&1 != remote))
    outer |> Enum.drop(1) |> put()
    for %{} = span <- inner, do: Frame.ended(span)
  end

  defp stack, do: Process.get(@key, [])

  defp put([]) do
    Process.delete(@key)
    :ok
  end

  defp put(stack) do
    Process.put(@key, stack)
    :ok
  end
end
