defmodule CrossReference.Comparison do
  @moduledoc false
  # The demo's lookups against the same entries in Foundation.Registry, in Elixir's own
  # Registry and in ETS.

  @subjects [:foundation, :registry, :ets]
  @rounds 21

  @type result :: %{subject: atom, ns: float, times: float}

  @doc """
  Times one lookup of each of `keys` in `foundation`, `registry` and the ETS table `ets`.

  All subjects run in each round, in one process on one scheduler. The order rotates from round to
  round. The cost of walking over the keys is subtracted. Raises when they disagree on what a
  key's entry is.
  """
  @spec run([term], atom, atom, atom) :: [result]
  def run(keys, foundation, registry, ets) do
    lookups = %{
      foundation: &Foundation.Registry.lookup(foundation, &1),
      registry: &Registry.lookup(registry, &1),
      ets: &:ets.lookup(ets, &1)
    }

    check!(keys, lookups)

    task =
      Task.async(fn ->
        # Scheduler threads differ by more than the subjects do. Not documented, and
        # where it has no effect the rounds still interleave. Dialyzer, which knows the
        # documented flags, would take the flag's literal name for a call that fails.
        :erlang.process_flag(String.to_atom("scheduler"), 1)
        rounds(keys, lookups)
      end)

    medians = Task.await(task, :infinity)

    for subject <- @subjects do
      ns = medians[subject]
      %{subject: subject, ns: ns, times: ns / medians[:foundation]}
    end
  end

  defp check!(keys, lookups) do
    for key <- Enum.uniq(keys) do
      [{pid, info}] = expected = lookups.foundation.(key)
      ^expected = lookups.registry.(key)
      [{^key, ^pid, ^info}] = lookups.ets.(key)
    end
  end

  defp rounds(keys, lookups) do
    samples =
      for round <- 1..@rounds do
        overhead = time(keys, fn _key -> [] end)

        @subjects
        |> rotate(rem(round, length(@subjects)))
        |> Map.new(&{&1, time(keys, lookups[&1]) - overhead})
      end

    Map.new(@subjects, fn subject -> {subject, median(Enum.map(samples, & &1[subject]))} end)
  end

  defp rotate(list, n) do
    {first, rest} = Enum.split(list, n)
    rest ++ first
  end

  # ns a key
  defp time(keys, fun) do
    :erlang.garbage_collect()
    started = :erlang.monotonic_time()
    each(keys, fun)
    duration = :erlang.monotonic_time() - started
    System.convert_time_unit(duration, :native, :nanosecond) / length(keys)
  end

  defp each([], _fun), do: :ok

  defp each([key | rest], fun) do
    fun.(key)
    each(rest, fun)
  end

  defp median(samples), do: samples |> Enum.sort() |> Enum.at(div(length(samples), 2))
end
