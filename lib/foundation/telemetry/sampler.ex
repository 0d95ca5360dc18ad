defmodule Foundation.Telemetry.Sampler do
  @moduledoc """
  Decides which events of a name are kept, by a strategy for each name.

      Sampler.configure_event([:app, :query], {:rate_limited, 100})
      if Sampler.should_sample?([:app, :query]), do: trace(query)

  `Foundation.Telemetry.SampledEvents` asks the strategy of an event's name by itself.

  | strategy | keeps |
  |---|---|
  | `:always` | every event; so does a name without a strategy |
  | `:never` | none |
  | `{:random, rate}` | each with probability `rate`, from 0 to 1 |
  | `{:rate_limited, n}` | at most `n` in any second, all `n` at once if they come at once |
  | `{:adaptive, n}` | all while the load is below `n` a second, and `n` a second, evenly spread, above |
  | `{:reservoir, n}` | the k-th with probability n/k, since it was configured or reset (Vitter's Algorithm R) |

  A limit of `{:rate_limited, n}` holds for a sliding second, measured in slices of 4 ms. A sample
  counts for at least 1,000 and at most 1,004 ms. `{:adaptive, n}` saves up one second's worth
  when the load is below `n`: a burst of up to `n` is kept whole.

  ## Consistency

  Decisions are made in the caller, on a state that all processes share. A rate of 100 is 100 over
  all processes and schedulers. A new strategy holds for every decision after `configure_event/2`
  has returned, and starts with nothing remembered. Strategies and counts outlive a crash of any
  telemetry process, and end with the application.

  ## Bounds

  The state of a strategy is bounded: 1 kB for `{:rate_limited, n}`, a few words for the others.
  Numbers go up to 4,294,967,295. Beyond 10,000 names of events the native engine decides and
  counts the rest under one name: see `Foundation.Telemetry.SampledEvents`.

  ## Telemetry events

  None of its own: what a strategy decides is counted, in `get_stats/0` and, of events of
  `Foundation.Telemetry.SampledEvents`, in `Foundation.Telemetry.SampledEvents.stats/0`.
  """

  alias Foundation.Native
  alias Foundation.Telemetry.Events.{Backend, Router}
  alias Foundation.Telemetry.Sampler.Strategy

  @type name :: term
  @typedoc "See the table above."
  @type strategy ::
          :always
          | :never
          | {:random, rate :: number}
          | {:rate_limited, per_second :: non_neg_integer}
          | {:adaptive, per_second :: number}
          | {:reservoir, size :: pos_integer}
  @type stats :: %{
          offered: non_neg_integer,
          sampled: non_neg_integer,
          sampled_out: non_neg_integer,
          strategy: strategy
        }

  @doc """
  Gives the events of a name a strategy, in place of the one they have.

  **Cost:** O(1). Returns `:ok`; raises `ArgumentError` for what is not a strategy.

      iex> Foundation.Telemetry.Sampler.configure_event([:doc, :sampled], {:random, 0.5})
      :ok
      iex> Foundation.Telemetry.Sampler.configure_event([:doc, :sampled], {:random, 2})
      ** (ArgumentError) expected a strategy to be :always, :never, {:random, rate} with a rate from 0 to 1, {:rate_limited, per_second} with 0 to 4294967295, {:adaptive, per_second} with 0 or 1.0e-9 to 4294967295, or {:reservoir, size} with 1 to 4294967295, got: {:random, 2}
  """
  @doc since: "0.1.0"
  @spec configure_event(name, strategy) :: :ok
  def configure_event(name, strategy) do
    Backend.running!().configure_strategy(name, Strategy.validate!(strategy))
  end

  @doc """
  Returns whether this event of `name` is kept. It is `true` without a strategy, and while there
  are no tables to have one in: before the application is started.

  The decision counts. **Cost:** O(1), in the caller. `metadata` is the event's; no strategy looks
  at it.

      iex> Foundation.Telemetry.Sampler.configure_event([:doc, :muted], :never)
      iex> Foundation.Telemetry.Sampler.should_sample?([:doc, :muted], %{})
      false
  """
  @doc since: "0.1.0"
  @spec should_sample?(name, map) :: boolean
  def should_sample?(name, metadata \\ %{}) when is_map(metadata) do
    case Native.sampler_decide(name) do
      nil -> Router.sample?(name)
      sample? -> sample?
    end
  end

  @doc """
  Returns how often the strategy of `name` decided, and how. **Cost:** O(1).

  `%{offered:, sampled:, sampled_out:, strategy:}`, where `offered` is the sum of the other two:
  each count is of all decisions that had returned when it was read.

      iex> Foundation.Telemetry.Sampler.configure_event([:doc, :counted], :never)
      iex> Foundation.Telemetry.Sampler.should_sample?([:doc, :counted])
      false
      iex> Foundation.Telemetry.Sampler.get_stats([:doc, :counted])
      %{offered: 1, sampled: 0, sampled_out: 1, strategy: :never}
  """
  @doc since: "0.1.0"
  @spec get_stats(name) :: stats
  def get_stats(name), do: offered(Backend.running!().sampled(name))

  @doc """
  Returns `get_stats/1` of each name with a strategy, by name. **Cost:** O(names).

      iex> Foundation.Telemetry.Sampler.configure_event([:doc, :listed], {:adaptive, 10})
      iex> Foundation.Telemetry.Sampler.get_stats()[[:doc, :listed]]
      %{offered: 0, sampled: 0, sampled_out: 0, strategy: {:adaptive, 10}}
  """
  @doc since: "0.1.0"
  @spec get_stats() :: %{optional(name) => stats}
  def get_stats do
    Map.new(Backend.running!().sampled(), fn {name, stats} -> {name, offered(stats)} end)
  end

  @doc """
  Sets all counts to 0 and lets every strategy forget what it remembers. The strategies stay.
  Returns `:ok`. **Cost:** O(names).

      iex> Foundation.Telemetry.Sampler.reset_stats()
      :ok
  """
  @doc since: "0.1.0"
  @spec reset_stats() :: :ok
  def reset_stats, do: Backend.running!().reset_sampled()

  defp offered(stats), do: Map.put(stats, :offered, stats.sampled + stats.sampled_out)
end
