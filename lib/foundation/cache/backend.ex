defmodule Foundation.Cache.Backend do
  @moduledoc false
  # The engine of a `Foundation.Cache`: entries with exact bytes, eviction, expiry, counters, and
  # the loads under way.
  #
  # Every callback takes the cache's name, runs in the caller, and returns `nil` where the engine
  # has no such cache. Times are durations in milliseconds; the engine has its own monotonic clock.
  # A value is fresh for its `ttl`, and stale for `stale` after that.
  #
  # A *lease* is the right to store what a load gives. A write to its key ends it: the load goes on,
  # and its value is returned to its callers and not stored.

  alias Foundation.Cache.{Cells, Config}

  @type name :: atom
  @type key :: term
  @type value :: term
  @type lease :: term
  @type time :: non_neg_integer | :infinity

  @typedoc """
  The result of a loader. `{:failed, error}`: it raised, threw or exited, and the callers that wait
  get `{:error, error}`.
  """
  @type outcome ::
          {:ok, value, ttl :: time, stale :: time}
          | {:error, reason :: term, negative_ttl :: time}
          | {:failed, error :: term}

  @typedoc """
  The result of a fetch: at once, or by the message `{:foundation_cache, ref, answer}` after
  `{:wait, ref}`.

    * `{:ok, value}`, `{:error, reason}`: a kept value or error, or the result of the load.
    * `{:load, lease}`: the caller runs the loader, and calls `finish/4`.
    * `:recursion`: the caller is a loader of this very key.
    * `:again`: the load ended without an answer; call `begin_again/3`.
    * `nil`: there is no such cache, or not any longer
  """
  @type answer ::
          {:ok, value} | {:error, term} | {:load, lease} | :recursion | :again | nil

  @doc "Returns a value, fresh or stale. Counts a hit or a miss; a kept error is a miss. O(1)."
  @callback get(name, key) :: {:ok, value} | :error | nil

  @doc """
  Begins a fetch. O(1).

  A fresh value is the answer, and a stale one while another caller refreshes it. Otherwise the
  first caller gets a lease, and the others wait for its load. `early` is the factor of a
  probabilistic early refresh; `nil` takes the cache's own. A load that has run for longer than the
  cache's `load_timeout` is not waited for: the caller gets a lease of its own.

  Counts a hit or a miss, once: what is answered by a value or an error that is kept is a hit.
  """
  @callback begin(name, key, early :: number | nil) :: answer | {:wait, ref :: term}

  @doc "As `begin/3`, for a fetch that has been counted."
  @callback begin_again(name, key, early :: number | nil) :: answer | {:wait, ref :: term}

  @doc """
  Ends the wait of a caller. `:answered`: a message was sent before, and is in the caller's mailbox.
  O(1).
  """
  @callback cancel(name, ref :: term) :: :cancelled | :answered | nil

  @doc """
  Ends a load: stores what it gave if its lease still stands, and answers the callers that wait.

  A load that fails leaves a value that can still be served. A second call with a lease changes
  nothing. If the loader's process dies before it, the next caller that waits gets the lease. O(1)
  and a message to each caller that waits.
  """
  @callback finish(name, key, lease, outcome) :: :stored | :not_stored | nil

  @doc """
  Stores a value, and ends the lease of a load under way. A value larger than the cache is counted
  as rejected, and what was under the key goes. O(1), and O(1) for each entry that is evicted.
  """
  @callback put(name, key, value, ttl :: time, stale :: time) :: :ok | nil

  @doc "Removes what is under a key, and ends the lease of a load under way. O(1)."
  @callback delete(name, key) :: :ok | nil

  @doc "Removes everything, and ends all leases. No read that begins afterwards finds an entry."
  @callback clear(name) :: :ok | nil

  @doc "As `clear/1`, but the entries are removed and counted as expired when they are met. O(1)."
  @callback expire(name) :: :ok | nil

  @doc "The number of entries, kept errors and expired ones that nobody has met included. O(1)."
  @callback size(name) :: non_neg_integer | nil

  @doc """
  `{hits, misses, loads, load_errors, stale_hits, evicted, expired, rejected, entries, bytes}`.
  O(1).
  """
  @callback stats(name) :: tuple | nil

  @doc """
  The next entries with a value of a walk that begins with `0`, and where it goes on. An entry that
  is there throughout is visited exactly once, others at most once.
  """
  @callback walk(name, cursor :: term) :: {[{key, value}], cursor :: term | :done} | nil

  ## For the cache's owner

  @type state :: term

  @doc "Starts a cache, or adopts one whose owner crashed. Its limits are those of the new start."
  @callback open(Config.t(), adopt_timeout :: timeout) :: {:ok, state} | {:error, term}

  @doc "Answers a request that the engine sends to the owner of a cache."
  @callback handle_request(term, state) :: {reply :: term, state}

  @doc "Handles any other message to the owner."
  @callback handle_message(term, state) :: state

  @doc "Destroys a cache; callers that wait get the answer `nil`."
  @callback stop(name, Cells.t()) :: term
end
