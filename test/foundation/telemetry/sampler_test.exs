defmodule Foundation.Telemetry.SamplerTest do
  # Not async: there is one set of telemetry tables.
  use Foundation.TelemetryCase, async: false

  alias Foundation.Telemetry.Sampler

  doctest Sampler

  @event [:suite, :sampled]

  defp kept(n), do: Enum.count(1..n//1, fn _ -> Sampler.should_sample?(@event) end)

  # Makes about `rate` calls a second for `ms` milliseconds. Returns how many calls it made, and how
  # many were kept.
  defp load(rate, ms), do: load(rate, ms, System.monotonic_time(:millisecond), 0, 0)

  defp load(rate, ms, started, made, kept) do
    elapsed = System.monotonic_time(:millisecond) - started

    if elapsed >= ms do
      {made, kept}
    else
      due = max(div(elapsed * rate, 1_000) - made, 0)
      Process.sleep(1)
      load(rate, ms, started, made + due, kept + kept(due))
    end
  end

  # Calls until an adaptive strategy has used up its burst.
  defp drain do
    before = System.monotonic_time(:microsecond)
    kept = kept(1_000)
    {kept, %{before: before, later: System.monotonic_time(:microsecond)}}
  end

  for engine <- [:ets, :native] do
    describe "strategies on the #{engine} engine:" do
      @describetag engine: engine

      test "an event name without a strategy keeps all events" do
        assert kept(10) == 10
        assert %{strategy: :always} = Sampler.get_stats(@event)
      end

      test ":always keeps all events and :never keeps none" do
        :ok = Sampler.configure_event(@event, :always)
        assert kept(100) == 100
        :ok = Sampler.configure_event(@event, :never)
        assert kept(100) == 0

        assert %{offered: 200, sampled: 100, sampled_out: 100, strategy: :never} =
                 Sampler.get_stats(@event)
      end

      test "{:random, rate} keeps its share, within five standard deviations" do
        :ok = Sampler.configure_event(@event, {:random, 0.1})
        kept = together(4, fn _ -> kept(5_000) end) |> Enum.sum()
        assert_in_delta kept, 2_000, 5 * :math.sqrt(20_000 * 0.1 * 0.9)
        :ok = Sampler.configure_event(@event, {:random, 0})
        assert kept(1_000) == 0
        :ok = Sampler.configure_event(@event, {:random, 1})
        assert kept(1_000) == 1_000
      end

      test "{:rate_limited, n} keeps n at once, and n in any second with many callers" do
        :ok = Sampler.configure_event(@event, {:rate_limited, 100})
        {took, kept} = :timer.tc(fn -> kept(150) end)
        assert kept == 100 or took >= 1_000_000
        # Another strategy in between forgets the hundred.
        :ok = Sampler.configure_event(@event, :never)
        :ok = Sampler.configure_event(@event, {:rate_limited, 100})
        stop = System.monotonic_time(:microsecond) + 3_000_000

        {kept, refused} =
          8
          |> together(fn _ -> until(stop, [], [0]) end)
          |> Enum.reduce({[], []}, fn {kept, refused}, {all_kept, all_refused} ->
            {kept ++ all_kept, refused ++ all_refused}
          end)

        # Each decision was made between two readings of the clock. So the k-th decision lies
        # between the k-th smallest earlier reading and the k-th smallest later one.
        before = kept |> Enum.map(&elem(&1, 0)) |> Enum.sort()
        later = kept |> Enum.map(&elem(&1, 1)) |> Enum.sort() |> Enum.drop(100)
        for {first, last} <- Enum.zip(before, later), do: assert(last - first >= 1_000_000)

        # An event is refused only if a hundred were kept in the second before it. A kept one counts
        # for 4 ms more.
        assert refused != []

        for {first, last} <- refused do
          second_before = first - 1_005_000
          assert Enum.count(kept, fn {b, l} -> l >= second_before and b <= last end) >= 100
        end
      end

      test "{:rate_limited, 0} keeps none" do
        :ok = Sampler.configure_event(@event, {:rate_limited, 0})
        assert kept(100) == 0
      end

      test "{:adaptive, n} keeps all below n, and settles at n when the load changes tenfold" do
        :ok = Sampler.configure_event(@event, {:adaptive, 500})
        assert kept(400) == 400
        %{sampled_out: 0} = Sampler.get_stats(@event)
        load(5_000, 1_500)
        {_kept, drained} = drain()
        {_made, kept} = load(5_000, 1_000)
        {last, drained_again} = drain()
        # Between two drains it keeps the events that its rate has allowed meanwhile. Each drain
        # ended between two readings of the clock.
        # After a pause of more than a second the rate has allowed 500 at once, and no more.
        allowed = 500 * (drained_again.before - drained.later) / 1_000_000
        assert kept + last >= min(allowed, 500) - 1
        assert kept + last <= 500 * (drained_again.later - drained.before) / 1_000_000 + 1
        {made, kept} = load(400, 1_000)
        assert_in_delta kept, made, 20
      end

      test "{:reservoir, n} takes the k-th with n/k, by a chi-square test" do
        rounds = 400

        taken =
          for _ <- 1..rounds, reduce: List.duplicate(0, 60) do
            sums ->
              :ok = Sampler.configure_event(@event, {:reservoir, 10})
              row = for _ <- 1..60, do: Sampler.should_sample?(@event)
              assert row |> Enum.take(10) |> Enum.all?()
              Enum.zip_with(sums, row, fn sum, taken -> if taken, do: sum + 1, else: sum end)
          end

        # 50 independent binomials: the sum of squares follows chi-square with 50 degrees of
        # freedom, which exceeds 98 less than once in 20,000.
        chi_square =
          for {count, k} <- Enum.zip(taken, 1..60), k > 10, reduce: 0 do
            sum ->
              p = 10 / k
              sum + (count - rounds * p) ** 2 / (rounds * p * (1 - p))
          end

        assert chi_square < 98
        assert chi_square > 18
      end

      test "counts are exact with many callers, and a reset keeps strategies" do
        :ok = Sampler.configure_event(@event, {:reservoir, 5})
        kept = together(8, fn _ -> kept(1_000) end) |> Enum.sum()
        assert %{offered: 8_000, sampled: ^kept} = Sampler.get_stats(@event)
        assert %{@event => %{offered: 8_000}} = Sampler.get_stats()
        assert :ok = Sampler.reset_stats()

        assert Sampler.get_stats(@event) == %{
                 offered: 0,
                 sampled: 0,
                 sampled_out: 0,
                 strategy: {:reservoir, 5}
               }

        assert kept(5) == 5
      end

      test "a new strategy holds at once, in every process" do
        :ok = Sampler.configure_event(@event, :never)
        task = Task.async(fn -> receive(do: (:go -> kept(100))) end)
        :ok = Sampler.configure_event(@event, :always)
        send(task.pid, :go)
        assert Task.await(task, 30_000) == 100
      end

      test "{:adaptive, 1.0e-9} keeps the first event, the only one in 30 years" do
        :ok = Sampler.configure_event(@event, {:adaptive, 1.0e-9})
        assert kept(100) == 1
      end

      test "an invalid strategy raises and changes nothing" do
        :ok = Sampler.configure_event(@event, :never)

        for wrong <- [
              nil,
              :sometimes,
              :random,
              {:random, -0.1},
              {:random, 1.1},
              {:random, :half},
              {:random, nil},
              {:rate_limited, -1},
              {:rate_limited, 1.5},
              {:adaptive, -1},
              {:adaptive, 1.0e-300},
              {:adaptive, 2 ** 32},
              {:adaptive, 2 ** 64},
              {:rate_limited, 2 ** 32},
              {:reservoir, 2 ** 32},
              {:adaptive, nil},
              {:reservoir, 0},
              {:reservoir, -1},
              {:reservoir, 1.0},
              {:unknown, 1},
              {:random, 0.1, 0.2},
              "always",
              []
            ] do
          assert_raise ArgumentError, ~r/expected a strategy to be/, fn ->
            Sampler.configure_event(@event, wrong)
          end
        end

        assert Sampler.get_stats(@event).strategy == :never
      end

      test "strategies survive a kill of the batch processor" do
        :ok = Sampler.configure_event(@event, :never)
        kill_server(Foundation.Telemetry.SampledEvents)
        refute Sampler.should_sample?(@event)
      end
    end
  end

  # Returns the readings of the clock around each event that was kept, and around one that was
  # refused in each millisecond.
  defp until(stop, kept, [last_refused | _] = refused) do
    now = System.monotonic_time(:microsecond)

    cond do
      now >= stop -> {kept, for({_before, _later} = readings <- refused, do: readings)}
      Sampler.should_sample?(@event) -> until(stop, [readings(now) | kept], refused)
      just_before?(last_refused, now) -> until(stop, kept, refused)
      true -> until(stop, kept, [readings(now) | refused])
    end
  end

  defp readings(before), do: {before, System.monotonic_time(:microsecond)}

  defp just_before?({before, _later}, now), do: now - before < 1_000
  defp just_before?(_none, _now), do: false
end
