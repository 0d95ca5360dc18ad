defmodule Foundation.Bulkhead do
  alias Foundation.{Native, Options, Rejected}
  alias Foundation.Bulkhead.Permit
  alias Foundation.Resilience.{ETS, Instance}

  @most 4_294_967_295
  @schema Keyword.merge(
            [
              max: [
                type: {:integer, 1..@most},
                required: true,
                doc: "The largest sum of the weights of permits that are out."
              ],
              queue: [
                type: {:integer, 0..@most},
                default: 0,
                doc: "The largest number of callers that wait for a permit."
              ],
              wait: [
                type: Options.time(0),
                default: 0,
                doc: "The `:wait` of calls without one, in milliseconds."
              ],
              order: [
                type: {:in, [:fifo, :lifo]},
                default: :fifo,
                doc: "`:fifo` serves the oldest waiter first, `:lifo` the newest."
              ]
            ],
            Instance.schema()
          )

  @call [
    wait: [
      type: Options.time(0),
      default: nil,
      doc: "How many milliseconds to wait; by default as the instance's `:wait`."
    ],
    weight: [type: {:from, 1}, default: 1, doc: "How much of `:max` the call takes."]
  ]

  @moduledoc """
  Bounds how many calls of a service run at a time.

      {Foundation.Bulkhead, name: MyApp.LLM, max: 25, queue: 100, wait: 5_000}

  A call takes a permit and gives it back when it ends:

      Foundation.Bulkhead.run(MyApp.LLM, fn -> complete(prompt) end)

  The permit comes back when the function returns, raises, throws or exits, and when its process
  is killed. A permit that becomes free goes to the next waiter that is alive.

  ## Keys

  Each call takes `MyApp.LLM`, or `{MyApp.LLM, key}` with any key: a tenant, a host. Each key has
  its own permits, as many as the instance's `:max`. A key's state is created on first use. It is
  dropped when the key is idle and another key needs its place.

  ## Consistency

  Each function takes effect at one moment. The permits out never weigh more than `:max`, also while
  the owner is killed and restarted. A waiter that gives up learns whether it owns a permit. Waiters
  are served strictly in order: a heavy one at the front is not overtaken, and a call that does not
  wait is rejected while others wait.

  On the native engine every call works while the owner restarts. On the ETS engine, a call waits
  for the restart. The state survives a crash of the owner. An orderly stop ends it, and calls that
  wait then raise `ArgumentError`.

  ## Bounds

  `:queue` bounds the waiters of each key, `:max_keys` the keys.

  ## Telemetry events

  None: an event would cost more than the call. `info/1` has the counters.
  """

  @opaque permit :: %Permit{}
  @type name :: atom | {atom, key :: term}
  @type info :: %{
          max: pos_integer,
          in_use: non_neg_integer,
          waiting: non_neg_integer,
          granted: non_neg_integer,
          rejected: non_neg_integer,
          timed_out: non_neg_integer,
          reclaimed: non_neg_integer
        }

  @doc """
  Starts a bulkhead, linked to the caller.

  Options:

  #{Options.docs(@schema)}

  Returns `{:error, {:already_started, pid}}` where the name is taken, and raises `ArgumentError`
  for an option that is unknown or of a wrong type.

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Started, max: 2)
      iex> Foundation.Bulkhead.info(MyApp.Started).max
      2
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    options = Options.validate!(options, @schema, "the options of Foundation.Bulkhead")
    [max, queue, wait, order] = for key <- [:max, :queue, :wait, :order], do: options[key]
    keys = options[:max_keys]
    start = &Native.bulkhead_start(options[:name], max, queue, wait, order, keys, &1)
    config = Map.new(Keyword.take(options, [:max, :queue, :wait, :order, :max_keys]))
    Instance.start_link(:bulkhead, options, start, config)
  end

  @doc """
  Returns the child specification of a bulkhead, whose id is its name.

      iex> Foundation.Bulkhead.child_spec(name: MyApp.LLM, max: 2).id
      MyApp.LLM
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: Instance.child_spec(__MODULE__, options)

  @doc """
  Runs a function with a permit, and returns its result.

  Returns `{:error, %Foundation.Rejected{}}` without a call of the function where there is no
  permit. The permit comes back when the function ends, however it ends.

  Options:

  #{Options.docs(@call)}

  **Cost:** that of `acquire/2` and `release/1`.

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Run, max: 1)
      iex> Foundation.Bulkhead.run(MyApp.Run, fn ->
      ...>   {:error, rejected} = Foundation.Bulkhead.run(MyApp.Run, fn -> :not_called end)
      ...>   rejected.reason
      ...> end)
      :full
  """
  @doc since: "0.1.0"
  @spec run(name, (() -> result), keyword) :: result | {:error, Rejected.t()} when result: term
  def run(name, fun, options \\ [])

  def run(name, fun, options) when is_function(fun, 0) do
    with {:ok, permit} <- acquire(name, options) do
      try do
        fun.()
      after
        release(permit)
      end
    end
  end

  def run(_name, fun, _options) do
    raise ArgumentError, "expected a function of arity 0, got: #{inspect(fun)}"
  end

  @doc """
  Takes a permit, which belongs to the calling process.

  Returns `{:error, %Foundation.Rejected{}}` with the reason `:full`, `:timeout` or `:max_keys`. A
  weight above `:max` is rejected at once with `:full`. The options are those of `run/3`.

  **Cost:** O(1). It waits for other callers only if it is told to.

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Acquire, max: 1)
      iex> {:ok, permit} = Foundation.Bulkhead.acquire(MyApp.Acquire)
      iex> Foundation.Bulkhead.release(permit)
      :ok
  """
  @doc since: "0.1.0"
  @spec acquire(name, keyword) :: {:ok, permit} | {:error, Rejected.t()}
  def acquire(name, options \\ [])
  def acquire(name, []), do: take(name, 1, nil)

  def acquire(name, options) do
    options = Options.validate!(options, @call, "the options of a call")
    # A weight above the range of a word counts as one above every maximum.
    take(name, min(options[:weight], @most + 1), options[:wait])
  end

  defp take(name, weight, wait) do
    case Native.bulkhead_acquire(Instance.valid!(name, :bulkhead), weight, wait) do
      id when is_integer(id) -> {:ok, %Permit{name: name, holder: self(), id: id}}
      {:wait, time} -> wait(name, weight, time)
      other -> other |> taken(name, {:acquire, weight, wait})
    end
  end

  defp taken(answer, name, request) do
    case Instance.answer(answer, :bulkhead, name, request) do
      {:granted, id} -> {:ok, %Permit{name: name, holder: self(), id: id}}
      reason -> Instance.rejected(:bulkhead, name, reason)
    end
  end

  defp wait(name, weight, time) do
    reference = make_ref()

    case Native.bulkhead_wait(name, weight, reference) do
      id when is_integer(id) ->
        {:ok, %Permit{name: name, holder: self(), id: id}}

      {:waits, id} ->
        await(name, id, reference, time)

      # The instance is gone, or is one of the ETS engine now.
      nil ->
        taken(nil, name, {:acquire, weight, time})

      other ->
        taken(other, name, nil)
    end
  end

  defp await(name, id, reference, time) do
    receive do
      {^reference, :granted} -> {:ok, %Permit{name: name, holder: self(), id: id}}
      {^reference, :refused} -> refused(name, id)
    after
      time -> give_up(name, id, reference)
    end
  end

  # The library decides under the pool's lock. If it has granted the permit meanwhile, the permit is
  # the caller's, and its message is in the mailbox or on its way.
  defp give_up(name, id, reference) do
    case Native.bulkhead_cancel(name, id) do
      :cancelled -> Instance.rejected(:bulkhead, name, :timeout)
      :unknown -> Instance.rejected(:bulkhead, name, :timeout)
      _granted_refused_or_gone -> await(name, id, reference, :infinity)
    end
  end

  # The bulkhead has become smaller than the weight, or is gone.
  defp refused(name, id) do
    case Native.bulkhead_cancel(name, id) do
      nil -> Instance.unknown!(name, :bulkhead)
      _taken_note -> Instance.rejected(:bulkhead, name, :full)
    end
  end

  @doc """
  Gives a permit back. Any process may do so. A second release changes nothing.

  **Cost:** O(1), and O(1) for each waiter that is served.

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Release, max: 1)
      iex> {:ok, permit} = Foundation.Bulkhead.acquire(MyApp.Release)
      iex> [Foundation.Bulkhead.release(permit), Foundation.Bulkhead.release(permit)]
      [:ok, :ok]
  """
  @doc since: "0.1.0"
  @spec release(permit) :: :ok
  def release(%Permit{name: name, holder: holder, id: id}) when is_integer(id) do
    # Where the instance is gone, so is the permit.
    _ = Native.bulkhead_release(name, holder, id)
    :ok
  end

  def release(%Permit{name: name, id: id}) when is_reference(id) do
    _ = ETS.call(:bulkhead, name, {:release, id})
    :ok
  end

  def release(other) do
    raise ArgumentError,
          "expected a permit of Foundation.Bulkhead.acquire/2, got: #{inspect(other)}"
  end

  @doc """
  Returns the figures of a bulkhead.

    * `:max` - the largest weight.
    * `:in_use` - the weight of the permits that are out.
    * `:waiting` - the number of waiting callers.
    * `:granted` - permits granted since the start.
    * `:rejected` - calls rejected at once.
    * `:timed_out` - calls that waited in vain.
    * `:reclaimed` - permits of processes that died.

  An unknown key has the figures of a new one. **Cost:** O(1).

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Info, max: 3)
      iex> Foundation.Bulkhead.run(MyApp.Info, fn -> Foundation.Bulkhead.info(MyApp.Info).in_use end)
      1
  """
  @doc since: "0.1.0"
  @spec info(name) :: info
  def info(name) do
    Instance.name!(name, :bulkhead)
    answer = Native.bulkhead_info(name)

    {max, in_use, waiting, granted, rejected, timed_out, reclaimed} =
      Instance.answer(answer, :bulkhead, name, :info)

    %{
      max: max,
      in_use: in_use,
      waiting: waiting,
      granted: granted,
      rejected: rejected,
      timed_out: timed_out,
      reclaimed: reclaimed
    }
  end

  @doc """
  Sets how much may be out at a time.

  A smaller `max` takes nothing back: permits drain, and waiters that weigh more are rejected with
  `:full`. A larger one serves waiters at once. With the bare name it sets that alone, with
  `{name, key}` the key. It holds until the instance is started with another `:max`.

  Returns `{:error, %Foundation.Rejected{reason: :max_keys}}` where there is no place for the key.

  **Cost:** O(waiters).

      iex> {:ok, _owner} = Foundation.Bulkhead.start_link(name: MyApp.Resize, max: 3)
      iex> Foundation.Bulkhead.resize(MyApp.Resize, 5)
      :ok
      iex> Foundation.Bulkhead.info(MyApp.Resize).max
      5
  """
  @doc since: "0.1.0"
  @spec resize(name, pos_integer) :: :ok | {:error, Rejected.t()}
  def resize(name, max) when is_integer(max) and max in 1..@most do
    Instance.name!(name, :bulkhead)

    case Instance.answer(Native.bulkhead_resize(name, max), :bulkhead, name, {:resize, max}) do
      :ok -> :ok
      reason -> Instance.rejected(:bulkhead, name, reason)
    end
  end

  def resize(_name, max) do
    raise ArgumentError, "expected max to be an integer from 1 to #{@most}, got: #{inspect(max)}"
  end
end
