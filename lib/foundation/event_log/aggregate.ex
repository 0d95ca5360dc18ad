defmodule Foundation.EventLog.Aggregate do
  alias Foundation.EventLog.Aggregate.Server

  @moduledoc """
  A process whose state is the events of a stream of `Foundation.EventLog`.

      defmodule MyApp.Account do
        use Foundation.EventLog.Aggregate

        @impl true
        def init(_id), do: %{balance: 0}

        @impl true
        def handle_command({:deposit, amount}, _account), do: {:ok, [{:deposited, amount}]}

        def handle_command({:withdraw, amount}, account) do
          if amount <= account.balance,
            do: {:ok, [{:withdrawn, amount}], account.balance - amount},
            else: {:error, :insufficient_funds}
        end

        @impl true
        def apply_event({:deposited, amount, _metadata}, account),
          do: %{account | balance: account.balance + amount}

        def apply_event({:withdrawn, amount, _metadata}, account),
          do: %{account | balance: account.balance - amount}
      end

      {:ok, account} = MyApp.Account.start_link(log: MyApp.Log, stream: "account-1")
      {:ok, 1} = Foundation.EventLog.Aggregate.execute(account, {:deposit, 100})
      {:ok, 2, 60} = Foundation.EventLog.Aggregate.execute(account, {:withdraw, 40})

  A command is decided by `c:handle_command/2`, its events are appended, and then folded into the
  state by `c:apply_event/2`. Both functions must be free of side effects: a command may be decided
  again. The caller is answered when the events are durable.

  ## Options of `start_link/1`

    * `:log` - the name of the log. Required.
    * `:stream` - the stream. Required.
    * `:id` - the argument of `c:init/1` (default: the stream).
    * `:name` - a name of the process, as `GenServer` takes it.
    * `:snapshot_every` - after how many events the state is stored as a snapshot (100).

  ## Consistency

  Commands are decided one after the other. While an append is under way the next commands wait;
  then they are decided in turn, and all their events are one append. So 16 callers share an
  `fsync`, and each command sees the events of those before it.

  A process that is killed comes back with exactly the acknowledged events, and those that it was
  just appending may be among them. Several processes may write one stream: the one whose version
  is outdated reads the new events and decides again, at most 10 times.

  The newest snapshot is at most `:snapshot_every` events and one command behind. Events below it
  can be removed with `Foundation.EventLog.trim/3`.

  ## Telemetry events

  None of its own. Appends emit `[:foundation, :event_log, :commit]`.
  """

  @type event ::
          {type :: atom | String.t(), data :: term}
          | {type :: atom | String.t(), data :: term, metadata :: map}
  @type state :: term

  @doc """
  Returns the state before the first event.
  """
  @doc since: "0.1.0"
  @callback init(id :: term) :: state

  @doc """
  Decides a command: returns the events to append, perhaps with a reply, or an error.

  It must have no side effects, as it may be called again for the same command.
  """
  @doc since: "0.1.0"
  @callback handle_command(command :: term, state) ::
              {:ok, [event]} | {:ok, [event], reply :: term} | {:error, reason :: term}

  @doc """
  Folds an event into the state.
  """
  @doc since: "0.1.0"
  @callback apply_event({type :: atom | String.t(), data :: term, metadata :: map}, state) ::
              state

  @doc """
  Defines `start_link/1` and `child_spec/1` in a module that has the callbacks.

      iex> defmodule Docs.Counter do
      ...>   use Foundation.EventLog.Aggregate
      ...>   def init(_id), do: 0
      ...>   def handle_command(:count, _count), do: {:ok, [{:counted, nil}]}
      ...>   def apply_event({:counted, nil, _metadata}, count), do: count + 1
      ...> end
      iex> Docs.Counter.child_spec(log: Docs.Log, stream: "counter").id
      {Docs.Counter, "counter"}
  """
  @doc since: "0.1.0"
  defmacro __using__(_options) do
    quote do
      @behaviour Foundation.EventLog.Aggregate

      @doc false
      def start_link(options),
        do: Foundation.EventLog.Aggregate.start_link(__MODULE__, options)

      @doc false
      def child_spec(options) do
        %{
          id: {__MODULE__, Keyword.get(options, :name) || Keyword.get(options, :stream)},
          start: {__MODULE__, :start_link, [options]}
        }
      end

      defoverridable start_link: 1, child_spec: 1
    end
  end

  @doc """
  Starts a process of an aggregate's module; `start_link/1` of the module calls this.

  **Cost:** reads the newest snapshot, and the events after it. Errors: those of
  `GenServer.start_link/3`. Raises `ArgumentError` for a wrong option; a log that is not started is
  an error.

      iex> defmodule Docs.Started do
      ...>   use Foundation.EventLog.Aggregate
      ...>   def init(id), do: id
      ...>   def handle_command(_command, id), do: {:ok, [], id}
      ...>   def apply_event(_event, id), do: id
      ...> end
      iex> {:ok, aggregate} = Docs.Started.start_link(log: start_log(), stream: "thing-7")
      iex> Foundation.EventLog.Aggregate.execute(aggregate, :who)
      {:ok, 0, "thing-7"}
  """
  @doc since: "0.1.0"
  @spec start_link(module, keyword) :: GenServer.on_start()
  def start_link(module, options), do: Server.start_link(module, options)

  @doc """
  Executes a command, and returns the stream's version when its events are durable.

  A command without events answers the current version. A command that returned a reply gives
  `{:ok, version, reply}`, one that returned an error gives that.

  **Cost:** a call, and one `fsync` that the commands of the moment share.

  Errors: the command's own; `{:error, {:wrong_version, actual}}` after 10 lost races with other
  writers of the stream; `{:error, {:io, posix}}`, and then nothing was appended. Exits as
  `GenServer.call/3` does; after a timeout the command may still be carried out.

      iex> defmodule Docs.Account do
      ...>   use Foundation.EventLog.Aggregate
      ...>   def init(_id), do: 0
      ...>   def handle_command({:deposit, amount}, _balance), do: {:ok, [{:deposited, amount}]}
      ...>   def handle_command({:withdraw, amount}, balance) when amount > balance, do: {:error, :poor}
      ...>   def handle_command({:withdraw, amount}, _balance), do: {:ok, [{:withdrawn, amount}], amount}
      ...>   def apply_event({:deposited, amount, _metadata}, balance), do: balance + amount
      ...>   def apply_event({:withdrawn, amount, _metadata}, balance), do: balance - amount
      ...> end
      iex> {:ok, account} = Docs.Account.start_link(log: start_log(), stream: "account-1")
      iex> Foundation.EventLog.Aggregate.execute(account, {:deposit, 100})
      {:ok, 1}
      iex> Foundation.EventLog.Aggregate.execute(account, {:withdraw, 40})
      {:ok, 2, 40}
      iex> Foundation.EventLog.Aggregate.execute(account, {:withdraw, 80})
      {:error, :poor}
  """
  @doc since: "0.1.0"
  @spec execute(GenServer.server(), command :: term, timeout) ::
          {:ok, version :: non_neg_integer}
          | {:ok, version :: non_neg_integer, reply :: term}
          | {:error, reason :: term}
  def execute(server, command, timeout \\ 5_000),
    do: GenServer.call(server, {:execute, command}, timeout)
end
