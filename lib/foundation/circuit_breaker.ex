defmodule Foundation.CircuitBreaker do
  alias Foundation.{Native, Options, Rejected}
  alias Foundation.CircuitBreaker.Permit
  alias Foundation.Resilience.{ETS, Events, Instance}

  @day 86_400_000
  @schema Keyword.merge(
            [
              window: [
                type:
                  {:or,
                   [
                     {:pair, {:in, [:count]}, {:integer, 1..100_000}},
                     {:pair, {:in, [:time]}, {:integer, 1..@day}}
                   ]},
                default: {:count, 100},
                doc:
                  "Which calls count: the last `n` calls, or the calls of the last milliseconds."
              ],
              min_calls: [
                type: {:integer, 1..1_000_000},
                default: nil,
                doc:
                  "The smallest number of calls that can open it; by default 20, or a smaller count window."
              ],
              failure_rate: [
                type: {:number, :above, 0, 1},
                default: 0.5,
                doc: "The share of failed calls that opens it."
              ],
              slow_ms: [
                type: Options.time(0),
                default: :infinity,
                doc: "The duration from which a call is slow, in milliseconds."
              ],
              slow_rate: [
                type: {:number, :above, 0, 1},
                default: 0.5,
                doc: "The share of slow calls that opens it."
              ],
              open_ms: [
                type: {:integer, 1..@day},
                default: 5_000,
                doc: "The first open time, in milliseconds. Each re-opening doubles it."
              ],
              max_open_ms: [
                type: {:integer, 1..@day},
                default: 60_000,
                doc: "The longest open time, in milliseconds."
              ],
              jitter: [
                type: {:number, :from, 0, 1},
                default: 0.1,
                doc: "The largest random change of an open time, as a share of it."
              ],
              probes: [
                type: {:integer, 1..10_000},
                default: 3,
                doc:
                  "The number of calls that a half-open breaker admits at a time, and that must succeed."
              ],
              probe_timeout_ms: [
                type: {:integer, 1..@day},
                default: 60_000,
                doc:
                  "The time after which a forgotten probe gives its place back, in milliseconds."
              ],
              classify: [
                type: {:fun, 1},
                default: nil,
                doc: """
                Classifies an outcome as `:ok`, `:error` or `:ignore`. Its argument is
                `{:return, value}` or `{:raise | :throw | :exit, reason}`. By default `:error`,
                `{:error, _}`, exceptions, throws and exits are errors, and a
                `Foundation.Rejected` is ignored.
                """
              ]
            ],
            Instance.schema()
          )

  @settings [
    :window,
    :min_calls,
    :failure_rate,
    :slow_ms,
    :slow_rate,
    :open_ms,
    :max_open_ms,
    :jitter,
    :probes,
    :probe_timeout_ms
  ]

  @moduledoc """
  Stops calls to a failing service, and probes whether it has recovered.

      {Foundation.CircuitBreaker, name: MyApp.LLM, failure_rate: 0.5, open_ms: 5_000}

      Foundation.CircuitBreaker.run(MyApp.LLM, fn -> complete(prompt) end)

  A *closed* breaker admits calls and counts their outcomes. Too many failed or slow calls *open*
  it, and it rejects calls. After its open time the next call makes it *half-open*: it admits at
  most `:probes` calls at a time. As many successes close it. One failure opens it for twice as
  long. An *isolated* breaker rejects all calls until `reset/1`.

  A probe always gives its place back, so a half-open breaker cannot stick. If its process dies, the
  probe has failed. If its process forgets it, it expires after `:probe_timeout_ms`. A slow probe
  has failed too.

  ## Keys

  Each call takes `MyApp.LLM`, or `{MyApp.LLM, key}` with any key, such as a host. A key has a
  breaker of its own with the instance's settings. A key is idle when it is closed, has no failed or
  slow call in its window and no call out.

  ## Consistency

  Each function is atomic. A call counts only in the state that admitted it: if the state changes
  before the call is recorded, the call counts for nothing.

  The state survives a crash of the owner. Started again with other options, an instance keeps its
  state and applies them. On the native engine every call works while the owner restarts. On the
  ETS engine, a call waits for the restart.

  A time window counts in sixteenths: a call counts until its sixteenth is older than the window.

  ## Bounds

  `:max_keys` bounds the keys, and a window has a fixed size. A process has at
  most about 10,000 calls out. Another call ends an old one as `:ignore` would.

  ## Telemetry events

  One for each change of state. `:open_ms` is how long it is open, or was.

  | event | measurements | metadata |
  |---|---|---|
  | `[:foundation, :circuit_breaker, :open]` | `:calls`, `:failures`, `:slow`, `:open_ms` | `:name` |
  | `[:foundation, :circuit_breaker, :half_open]` | the same | `:name` |
  | `[:foundation, :circuit_breaker, :close]` | the same | `:name` |
  | `[:foundation, :circuit_breaker, :isolate]` | the same | `:name` |
  """

  @opaque permit :: %Permit{}
  @type name :: atom | {atom, key :: term}
  @type outcome :: :ok | :error | :ignore
  @type state :: :closed | :open | :half_open | :isolated

  @doc """
  Starts a circuit breaker, linked to the caller.

  Options:

  #{Options.docs(@schema)}

  Returns `{:error, {:already_started, pid}}` if the name is taken. Raises `ArgumentError` for an
  unknown or invalid option, and for a `:min_calls` above a count window.

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.NewBreaker)
      iex> Foundation.CircuitBreaker.state(MyApp.NewBreaker)
      :closed
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    options =
      options
      |> Options.validate!(@schema, "the options of Foundation.CircuitBreaker")
      |> with_min_calls()

    settings = for key <- @settings, do: options[key]
    classify = options[:classify] || :default

    start = fn adopt_timeout ->
      name = options[:name]
      Native.breaker_start(name, settings, classify, options[:max_keys], adopt_timeout)
    end

    config = Map.new([classify: classify] ++ Keyword.take(options, [:max_keys | @settings]))
    Instance.start_link(:circuit_breaker, options, start, config)
  end

  defp with_min_calls(options) do
    case {options[:min_calls], options[:window]} do
      {nil, {:count, size}} ->
        Keyword.put(options, :min_calls, min(20, size))

      {nil, _time} ->
        Keyword.put(options, :min_calls, 20)

      {calls, {:count, size}} when calls > size ->
        raise ArgumentError,
              "expected :min_calls to be at most the size of the window, #{size}, got: #{calls}"

      {_calls, _window} ->
        options
    end
  end

  @doc """
  Returns the child specification of a circuit breaker, whose id is its name.

      iex> Foundation.CircuitBreaker.child_spec(name: MyApp.LLM).id
      MyApp.LLM
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: Instance.child_spec(__MODULE__, options)

  @doc """
  Runs a function if calls are admitted, counts how it ends, and returns its result.

  Returns `{:error, %Foundation.Rejected{}}` without calling the function if the breaker rejects the
  call. Exceptions, throws and exits of the function reach the caller.

  **Cost:** that of `ask/1` and `record/2`.

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.RunBreaker)
      iex> Foundation.CircuitBreaker.run(MyApp.RunBreaker, fn -> {:ok, 42} end)
      {:ok, 42}
  """
  @doc since: "0.1.0"
  @spec run(name, (() -> result)) :: result | {:error, Rejected.t()} when result: term
  def run(name, fun) when is_function(fun, 0) do
    with {:ok, permit} <- ask(name) do
      try do
        fun.()
      catch
        kind, reason ->
          classified(permit, {raised(kind), normalized(kind, reason, __STACKTRACE__)})
          :erlang.raise(kind, reason, __STACKTRACE__)
      else
        value ->
          classified(permit, {:return, value})
          value
      end
    end
  end

  def run(_name, fun) do
    raise ArgumentError, "expected a function of arity 0, got: #{inspect(fun)}"
  end

  defp raised(:error), do: :raise
  defp raised(kind), do: kind

  defp normalized(:error, reason, stacktrace), do: Exception.normalize(:error, reason, stacktrace)
  defp normalized(_kind, reason, _stacktrace), do: reason

  defp classified(permit, outcome) do
    record(permit, classify(permit, outcome))
  rescue
    error ->
      # The classifier failed, or gave something else: the call has ended all the same.
      record(permit, :error)
      reraise error, __STACKTRACE__
  end

  defp classify(%Permit{name: name}, outcome) do
    case Instance.answer(Native.breaker_classify(name), :circuit_breaker, name, :classify) do
      :default -> default(outcome)
      classify -> outcome!(classify.(outcome))
    end
  end

  defp outcome!(outcome) when outcome in [:ok, :error, :ignore], do: outcome

  defp outcome!(other) do
    raise ArgumentError,
          "expected :classify to return :ok, :error or :ignore, got: #{inspect(other)}"
  end

  defp default({:return, {:error, %Rejected{}}}), do: :ignore
  defp default({_kind, %Rejected{}}), do: :ignore
  defp default({:return, :error}), do: :error
  defp default({:return, {:error, _reason}}), do: :error
  defp default({:return, _value}), do: :ok
  defp default({_kind, _reason}), do: :error

  @doc """
  Asks whether a call may be made, for a caller that records its outcome with `record/2`.

  Returns `{:error, %Foundation.Rejected{}}` with the reason `:open`, `:isolated`, `:probing` or
  `:max_keys`. The permit belongs to the calling process.

  **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.Ask)
      iex> {:ok, permit} = Foundation.CircuitBreaker.ask(MyApp.Ask)
      iex> Foundation.CircuitBreaker.record(permit, :ok)
      :ok
  """
  @doc since: "0.1.0"
  @spec ask(name) :: {:ok, permit} | {:error, Rejected.t()}
  def ask(name) do
    case Native.breaker_ask(Instance.valid!(name, :circuit_breaker)) do
      id when is_integer(id) -> {:ok, %Permit{name: name, holder: self(), id: id}}
      {:open, ms} -> Instance.rejected(:circuit_breaker, name, :open, ms)
      other -> other |> Instance.answer(:circuit_breaker, name, :ask) |> asked(name)
    end
  end

  defp asked({:changed, answer, transitions}, name) do
    Events.emit(name, transitions)
    asked(answer, name)
  end

  defp asked(id, name) when is_integer(id),
    do: {:ok, %Permit{name: name, holder: self(), id: id}}

  defp asked({:admitted, id}, name), do: {:ok, %Permit{name: name, holder: self(), id: id}}
  defp asked({:open, ms}, name), do: Instance.rejected(:circuit_breaker, name, :open, ms)
  defp asked(reason, name), do: Instance.rejected(:circuit_breaker, name, reason)

  @doc """
  Records how a call ended, once. Its duration is the time since `ask/1`.

  `:ignore` says nothing of the service: it gives a probe's place back and decides nothing. A second
  `record/2` changes nothing. Any process may record.

  **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.Record)
      iex> {:ok, permit} = Foundation.CircuitBreaker.ask(MyApp.Record)
      iex> Foundation.CircuitBreaker.record(permit, :error)
      :ok
      iex> Foundation.CircuitBreaker.info(MyApp.Record).failures
      1
  """
  @doc since: "0.1.0"
  @spec record(permit, outcome) :: :ok
  def record(%Permit{name: name} = permit, outcome) when outcome in [:ok, :error, :ignore] do
    case recorded(permit, outcome) do
      {:changed, :ok, transitions} -> Events.emit(name, transitions)
      # Where the instance is gone, there is nothing to record.
      _ok_or_gone -> :ok
    end
  end

  def record(%Permit{}, outcome) do
    raise ArgumentError,
          "expected an outcome to be :ok, :error or :ignore, got: #{inspect(outcome)}"
  end

  def record(other, _outcome) do
    raise ArgumentError,
          "expected a permit of Foundation.CircuitBreaker.ask/1, got: #{inspect(other)}"
  end

  defp recorded(%Permit{name: name, holder: holder, id: id}, outcome) when is_integer(id),
    do: Native.breaker_record(name, holder, id, outcome)

  defp recorded(%Permit{name: name, id: id}, outcome),
    do: ETS.call(:circuit_breaker, name, {:record, id, outcome})

  @doc """
  Returns the state of a circuit breaker.

  An open one whose time is over is `:open` until a call makes it `:half_open`. **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.State)
      iex> Foundation.CircuitBreaker.state(MyApp.State)
      :closed
  """
  @doc since: "0.1.0"
  @spec state(name) :: state
  def state(name) do
    Instance.name!(name, :circuit_breaker)
    Instance.answer(Native.breaker_state(name), :circuit_breaker, name, :state)
  end

  @doc """
  Returns the figures of a circuit breaker.

    * `:state` - as `state/1`.
    * `:calls`, `:failures`, `:slow` - counts of the window.
    * `:failure_rate`, `:slow_rate` - shares from 0.0 to 1.0.
    * `:retry_after_ms` - the rest of the open time, or `nil`.
    * `:rejected` - calls rejected since the start.
    * `:opened` - how often it has opened.
    * `:probes` - probes that are out.

  **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.Figures)
      iex> Foundation.CircuitBreaker.run(MyApp.Figures, fn -> :error end)
      iex> Foundation.CircuitBreaker.info(MyApp.Figures).failure_rate
      1.0
  """
  @doc since: "0.1.0"
  @spec info(name) :: %{
          state: state,
          calls: non_neg_integer,
          failures: non_neg_integer,
          slow: non_neg_integer,
          failure_rate: float,
          slow_rate: float,
          retry_after_ms: non_neg_integer | nil,
          rejected: non_neg_integer,
          opened: non_neg_integer,
          probes: non_neg_integer
        }
  def info(name) do
    Instance.name!(name, :circuit_breaker)
    answer = Native.breaker_info(name)

    {state, calls, failures, slow, retry_after_ms, rejected, opened, probes} =
      Instance.answer(answer, :circuit_breaker, name, :info)

    %{
      state: state,
      calls: calls,
      failures: failures,
      slow: slow,
      failure_rate: share(failures, calls),
      slow_rate: share(slow, calls),
      retry_after_ms: retry_after_ms,
      rejected: rejected,
      opened: opened,
      probes: probes
    }
  end

  defp share(_part, 0), do: 0.0
  defp share(part, calls), do: part / calls

  @doc """
  Makes a circuit breaker reject all calls until `reset/1`.

  Returns `{:error, %Foundation.Rejected{reason: :max_keys}}` where there is no place for the key.
  **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.Isolate)
      iex> Foundation.CircuitBreaker.isolate(MyApp.Isolate)
      :ok
      iex> Foundation.CircuitBreaker.state(MyApp.Isolate)
      :isolated
  """
  @doc since: "0.1.0"
  @spec isolate(name) :: :ok | {:error, Rejected.t()}
  def isolate(name) do
    Instance.name!(name, :circuit_breaker)
    changed(Native.breaker_isolate(name), name, :isolate)
  end

  @doc """
  Closes a circuit breaker and empties its window. **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.CircuitBreaker.start_link(name: MyApp.Reset)
      iex> Foundation.CircuitBreaker.isolate(MyApp.Reset)
      iex> Foundation.CircuitBreaker.reset(MyApp.Reset)
      :ok
      iex> Foundation.CircuitBreaker.state(MyApp.Reset)
      :closed
  """
  @doc since: "0.1.0"
  @spec reset(name) :: :ok
  def reset(name) do
    Instance.name!(name, :circuit_breaker)
    changed(Native.breaker_reset(name), name, :reset)
  end

  defp changed(answer, name, request) do
    case Instance.answer(answer, :circuit_breaker, name, request) do
      :ok -> :ok
      {:changed, :ok, transitions} -> Events.emit(name, transitions)
      reason -> Instance.rejected(:circuit_breaker, name, reason)
    end
  end
end
