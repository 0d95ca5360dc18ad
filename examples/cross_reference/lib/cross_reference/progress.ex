defmodule CrossReference.Progress do
  @moduledoc false
  # Prints progress: one line that is rewritten on a terminal, or a line a second elsewhere.

  @enforce_keys [:terminal?, :started, :interval, :next]
  defstruct @enforce_keys

  @type t :: %__MODULE__{}

  @spec new() :: t
  def new do
    terminal? = IO.ANSI.enabled?()
    now = now()
    interval = if terminal?, do: 100, else: 1_000
    %__MODULE__{terminal?: terminal?, started: now, interval: interval, next: now + interval}
  end

  @doc "Prints the line when it is time to; `line` is called only then."
  @spec tick(t, (() -> iodata)) :: t
  def tick(progress, line) do
    if now() >= progress.next do
      print(progress, line.(), if(progress.terminal?, do: "", else: "\n"))
      %{progress | next: now() + progress.interval}
    else
      progress
    end
  end

  @doc "Prints the line and leaves it there."
  @spec done(t, iodata) :: t
  def done(progress, line) do
    print(progress, line, "\n")
    progress
  end

  defp print(progress, line, ending) do
    start = if progress.terminal?, do: "\r\e[K", else: ""
    seconds = :io_lib.format("~6.1f s  ", [(now() - progress.started) / 1000])
    IO.write([start, seconds, line, ending])
  end

  defp now, do: System.monotonic_time(:millisecond)
end
