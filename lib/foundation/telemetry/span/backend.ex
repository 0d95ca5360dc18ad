defmodule Foundation.Telemetry.Span.Backend do
  @moduledoc false
  # The engine behind `Foundation.Telemetry.Span`: a stack of open spans for each process. All
  # callbacks but the last three and those for another process act on the stack of the calling
  # process, in O(1) unless stated otherwise.

  alias Foundation.Telemetry
  alias Foundation.Telemetry.Span.{Backends, Context, Frame}

  @doc "Whether the table exists. O(1)."
  @callback exists?() :: boolean

  @doc "Makes the table, or takes over what a crashed predecessor left. Called by its owner."
  @callback open() :: :created | :adopted

  @doc "Destroys the table."
  @callback close() :: :ok

  @doc "Opens a span in the innermost frame. See `t:Frame.started/0`."
  @callback start(name :: term, attributes :: map) :: Frame.started()

  @doc "Closes the innermost span, or the one of an id."
  @callback finish(id :: String.t() | nil) :: Frame.ended() | :error

  @callback current() :: Frame.view()

  @doc "Closes a span of another process of this node. O(spans that are open inside it)."
  @callback finish_of(pid, id :: String.t()) :: Frame.ended() | :error

  @doc "The context in which another process of this node is: as `current/0`, of a context."
  @callback current_of(pid) :: Frame.view()

  @callback update(Frame.change()) :: :ok | :error

  @doc "Enters a context from elsewhere: the mark to leave it by."
  @callback enter(Context.t()) :: mark :: term

  @doc "Leaves it: the spans left open in it, innermost first. O(those)."
  @callback leave(mark :: term) :: [Frame.ended()]

  @doc "Makes the calling process the one that is told of processes that died in a span."
  @callback watch() :: :ok

  @doc """
  Interprets a message to that process. Returns the spans that were left open, each with the token
  that forgets it, `:more` if it should ask again with `:abandoned`, and how many spans were
  dropped since it last asked. Returns `:ignored` for any other message.
  """
  @callback abandoned(message :: term) ::
              {[{Frame.ended(), token :: term}], :more | :done, dropped :: non_neg_integer}
              | :ignored

  @doc "Forgets an abandoned span, in their order. Until then a successor gets it too."
  @callback forget(token :: term) :: :ok

  @backends [native: Backends.Native, ets: Backends.ETS]

  @doc "The backend whose tables exist, `nil` when there are none."
  @spec running() :: module | nil
  def running, do: Telemetry.Backend.running(@backends)

  @doc "The backend whose tables exist, or a raise that says what is missing."
  @spec running!() :: module
  def running!, do: Telemetry.Backend.running!(@backends)

  @doc "The backend of a table's engine."
  @spec of_engine(Foundation.Engine.t()) :: module
  def of_engine(engine), do: Keyword.fetch!(@backends, engine)
end
