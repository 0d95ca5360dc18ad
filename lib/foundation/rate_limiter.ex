defmodule Foundation.RateLimiter do
  alias Foundation.{Native, Options, Rejected}
  alias Foundation.RateLimiter.Reservation
  alias Foundation.Resilience.{Instance, Sleep}

  @most 4_294_967_295
  @longest 31 * 86_400_000
  @limit {:pair, {:integer, 1..@most}, {:integer, 1..@longest}}
  @limits_most 8
  @schema Keyword.merge(
            [
              limit: [
                type: @limit,
                default: nil,
                doc: "One limit, `{n, per_ms}`, named `:default`: at most `n` in `per_ms`."
              ],
              limits: [
                type: {:keyword_of, @limit},
                default: [],
                doc: "Up to #{@limits_most} named limits, in place of `:limit`."
              ],
              algorithm: [
                type: {:in, [:sliding_window, :token_bucket]},
                default: :sliding_window,
                doc: """
                A sliding window never lets through more than the limit in any window of
                `per_ms`. A token bucket refills at a steady rate, and after a rest lets through a
                full bucket at once.
                """
              ]
            ],
            Instance.schema()
          )

  @call [
    wait: [
      type: Options.time(0),
      default: 0,
      doc: "How many milliseconds to wait for a slot."
    ]
  ]

  @moduledoc """
  Limits the use of a service per time.

      {Foundation.RateLimiter,
       name: MyApp.LLM, limits: [requests: {60, 60_000}, tokens: {90_000, 60_000}]}

  A call takes from all limits or from none:

      Foundation.RateLimiter.take(MyApp.LLM, [requests: 1, tokens: 1_200], wait: 5_000)

  Where the cost is known only afterwards, `reserve/3` takes an estimate, and `settle/2` corrects
  it. More than was reserved goes into debt, which the next callers pay.

  ## Keys

  Each call takes `MyApp.LLM`, or `{MyApp.LLM, key}` with any key, such as a tenant. A key has
  limits of its own. A key is idle when nothing is used, booked or owed.

  ## Waiting

  With `wait:` a caller books a slot of its own in the future and sleeps until then. Slots are in
  the order of arrival: nobody gets an earlier one afterwards. Where the slot would come later than
  `wait:`, the call is rejected at once and takes nothing. A caller that dies keeps its slot.

  ## Consistency

  Each function is atomic. A sliding window counts in slices of 1/256 of its length. No window of
  that length has more than the limit. A call can be rejected for up to a slice too long. In a
  sliding window a debt counts from the time of the reservation, and leaves with it. A bucket goes
  below zero.

  The state survives a crash of the owner. On the native engine every call works while the owner
  restarts. On the ETS engine, a call waits for the restart.

  ## Bounds

  `:max_keys` bounds the keys. A window has 257 slices, and one for each slot that is booked.

  ## Telemetry events

  None: an event would cost more than the call. `info/1` has the counters.
  """

  @opaque reservation :: %Reservation{}
  @type name :: atom | {atom, key :: term}
  @type cost :: non_neg_integer | [{atom, non_neg_integer}]

  @doc """
  Starts a rate limiter, linked to the caller.

  Options:

  #{Options.docs(@schema)}

  Returns `{:error, {:already_started, pid}}` where the name is taken, and raises `ArgumentError`
  for an option that is unknown or of a wrong type, and without a limit.

      iex> options = [name: MyApp.NewLimiter, limit: {60, 60_000}]
      iex> {:ok, _owner} = Foundation.RateLimiter.start_link(options)
      iex> Foundation.RateLimiter.take(MyApp.NewLimiter)
      :ok
  """
  @doc since: "0.1.0"
  @spec start_link(keyword) :: GenServer.on_start()
  def start_link(options) do
    place = "the options of Foundation.RateLimiter"
    options = Options.validate!(options, @schema, place)
    limits = limits!(options[:limit], options[:limits], place)

    start = fn adopt_timeout ->
      [name, algorithm, max_keys] = for key <- [:name, :algorithm, :max_keys], do: options[key]
      Native.limiter_start(name, algorithm, limits, max_keys, adopt_timeout)
    end

    config = options |> Keyword.take([:algorithm, :max_keys]) |> Map.new()
    Instance.start_link(:rate_limiter, options, start, Map.put(config, :limits, limits))
  end

  defp limits!({limit, per}, [], _place), do: [{:default, limit, per}]

  defp limits!(nil, [_ | _] = limits, place) do
    names = Keyword.keys(limits)

    cond do
      Enum.uniq(names) != names ->
        raise ArgumentError, "expected :limits of #{place} to name each limit once"

      length(names) > @limits_most ->
        raise ArgumentError, "expected :limits of #{place} to be #{@limits_most} at most"

      true ->
        for {name, {limit, per}} <- limits, do: {name, limit, per}
    end
  end

  defp limits!(_limit, _limits, place),
    do: raise(ArgumentError, "expected #{place} to have either :limit or :limits")

  @doc """
  Returns the child specification of a rate limiter, whose id is its name.

      iex> Foundation.RateLimiter.child_spec(name: MyApp.LLM, limit: {60, 60_000}).id
      MyApp.LLM
  """
  @doc since: "0.1.0"
  @spec child_spec(keyword) :: Supervisor.child_spec()
  def child_spec(options), do: Instance.child_spec(__MODULE__, options)

  @doc """
  Takes `cost` from the limits: all of it or nothing.

  `cost` is a number where there is one limit, or a keyword list. A limit that the list does not
  name costs 0. Returns `{:error, %Foundation.Rejected{}}` with the reason `:rate_limited` and the
  time after which there is room, `:exceeds_limit` or `:max_keys`. Raises `ArgumentError` for a
  number where there are several limits, and for a limit that there is not.

  Options:

  #{Options.docs(@call)}

  **Cost:** O(1), at most O(slices of a window).

      iex> options = [name: MyApp.Take, limits: [requests: {2, 60_000}, tokens: {100, 60_000}]]
      iex> {:ok, _owner} = Foundation.RateLimiter.start_link(options)
      iex> Foundation.RateLimiter.take(MyApp.Take, requests: 1, tokens: 80)
      :ok
      iex> {:error, rejected} = Foundation.RateLimiter.take(MyApp.Take, requests: 1, tokens: 30)
      iex> rejected.reason
      :rate_limited
  """
  @doc since: "0.1.0"
  @spec take(name, cost, keyword) :: :ok | {:error, Rejected.t()}
  def take(name, cost \\ 1, options \\ []) do
    wait = wait!(options)

    case Native.limiter_take(Instance.valid!(name, :rate_limiter), cost, wait) do
      :ok ->
        :ok

      other ->
        other
        |> Instance.answer(:rate_limiter, name, {:take, cost, wait})
        |> taken(name, cost)
    end
  end

  defp taken(:ok, _name, _cost), do: :ok

  defp taken({:wait, ms}, _name, _cost) do
    Sleep.sleep(ms)
    :ok
  end

  defp taken(refusal, name, cost), do: refused(refusal, name, cost)

  defp refused({:limited, ms}, name, _cost),
    do: Instance.rejected(:rate_limiter, name, :rate_limited, ms)

  defp refused({:bad_cost, names}, name, cost), do: bad_cost!(names, name, cost)
  defp refused(reason, name, _cost), do: Instance.rejected(:rate_limiter, name, reason)

  @spec bad_cost!([atom], name, term) :: no_return
  defp bad_cost!([_only], name, cost) do
    raise ArgumentError,
          "expected the cost of #{inspect(name)} to be a natural number, got: #{inspect(cost)}"
  end

  defp bad_cost!(names, name, cost) do
    raise ArgumentError,
          "expected the cost of #{inspect(name)} to be a keyword list of natural numbers by " <>
            "limits of #{inspect(names)}, got: #{inspect(cost)}"
  end

  defp wait!([]), do: 0
  defp wait!(options), do: Options.validate!(options, @call, "the options of a call")[:wait]

  @doc """
  Takes an estimated cost, which `settle/2` corrects. It is otherwise as `take/3`.

  A reservation whose process dies stays as it was reserved.

      iex> options = [name: MyApp.Reserve, limit: {100, 60_000}]
      iex> {:ok, _owner} = Foundation.RateLimiter.start_link(options)
      iex> {:ok, reservation} = Foundation.RateLimiter.reserve(MyApp.Reserve, 80)
      iex> Foundation.RateLimiter.settle(reservation, 30)
      :ok
      iex> Foundation.RateLimiter.info(MyApp.Reserve).limits.default.used
      30
  """
  @doc since: "0.1.0"
  @spec reserve(name, cost, keyword) :: {:ok, reservation} | {:error, Rejected.t()}
  def reserve(name, cost, options \\ []) do
    wait = wait!(options)
    answer = Native.limiter_reserve(Instance.valid!(name, :rate_limiter), cost, wait)

    case Instance.answer(answer, :rate_limiter, name, {:reserve, cost, wait}) do
      {:reserved, slot, ms} ->
        reservation = %Reservation{
          name: name,
          slot: slot,
          cost: cost,
          settled: :atomics.new(1, [])
        }

        if ms > 0, do: Sleep.sleep(ms)
        {:ok, reservation}

      refusal ->
        refused(refusal, name, cost)
    end
  end

  @doc """
  Corrects a reservation to what was really used, once.

  Less than was reserved comes back at once. More goes into debt. A cost counts as #{@most} at most.
  After the window of the reservation has passed, and the second time, it changes nothing.

  **Cost:** O(1), at most O(slices of a window).

      iex> options = [name: MyApp.Settle, limit: {100, 60_000}]
      iex> {:ok, _owner} = Foundation.RateLimiter.start_link(options)
      iex> {:ok, reservation} = Foundation.RateLimiter.reserve(MyApp.Settle, 80)
      iex> Foundation.RateLimiter.settle(reservation, 130)
      :ok
      iex> Foundation.RateLimiter.info(MyApp.Settle).limits.default.available
      0
  """
  @doc since: "0.1.0"
  @spec settle(reservation, cost) :: :ok
  def settle(%Reservation{name: name, slot: slot, cost: reserved} = reservation, cost) do
    # Checked first: a cost that raises has settled nothing.
    cost!(reserved, name, cost)

    if :atomics.compare_exchange(reservation.settled, 1, 0, 1) == :ok do
      answer = Native.limiter_settle(name, slot, reserved, cost)

      case Instance.answer(answer, :rate_limiter, name, {:settle, slot, reserved, cost}) do
        :ok ->
          :ok

        {:bad_cost, names} ->
          :atomics.put(reservation.settled, 1, 0)
          bad_cost!(names, name, cost)
      end
    else
      :ok
    end
  end

  def settle(other, _cost) do
    raise ArgumentError,
          "expected a reservation of Foundation.RateLimiter.reserve/3, got: #{inspect(other)}"
  end

  defp cost!(_reserved, _name, cost) when is_integer(cost) and cost >= 0, do: :ok

  defp cost!(reserved, name, cost) do
    valid =
      Keyword.keyword?(cost) and
        Enum.all?(cost, fn {_limit, number} -> is_integer(number) and number >= 0 end)

    unless valid, do: bad_cost!(if(is_list(reserved), do: [], else: [:default]), name, cost)
  end

  @doc """
  Returns the figures of a rate limiter.

    * `:limits` - by name: `:limit`, `:per_ms`, `:used`, `:available` and `:reset_ms`. Without
      further calls the limit is unused again after `:reset_ms`.
    * `:taken` - successful calls since the start.
    * `:rejected` - rejected calls since the start.

  Booked slots count as used. **Cost:** O(slices of a window).

      iex> options = [name: MyApp.Used, limit: {10, 60_000}]
      iex> {:ok, _owner} = Foundation.RateLimiter.start_link(options)
      iex> Foundation.RateLimiter.take(MyApp.Used, 3)
      iex> %{used: 3, available: 7} = Foundation.RateLimiter.info(MyApp.Used).limits.default
  """
  @doc since: "0.1.0"
  @spec info(name) :: %{
          limits: %{
            atom => %{
              limit: pos_integer,
              per_ms: pos_integer,
              used: non_neg_integer,
              available: non_neg_integer,
              reset_ms: non_neg_integer
            }
          },
          taken: non_neg_integer,
          rejected: non_neg_integer
        }
  def info(name) do
    Instance.name!(name, :rate_limiter)
    answer = Native.limiter_info(name)
    {limits, taken, rejected} = Instance.answer(answer, :rate_limiter, name, :info)

    limits =
      for {limit_name, limit, per_ms, used, available, reset_ms} <- limits, into: %{} do
        {limit_name,
         %{limit: limit, per_ms: per_ms, used: used, available: available, reset_ms: reset_ms}}
      end

    %{limits: limits, taken: taken, rejected: rejected}
  end
end
