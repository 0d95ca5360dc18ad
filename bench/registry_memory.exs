Code.require_file("support/vm.exs", __DIR__)

defmodule Bench.RegistryMemory do
  @moduledoc false
  # The memory that entries take, and whether it is given back. Each figure comes from a VM of its
  # own. Needs Linux's /proc for the resident set.

  alias Bench.{Result, Row, VM}

  @probe Path.expand("support/memory_probe.exs", __DIR__)

  def rows do
    [
      %Row{
        name: :memory,
        what: "bytes an entry",
        theirs: "Registry",
        growth: [10_000, 100_000, 1_000_000],
        sizes: [100_000, 1_000_000],
        quick: [10_000],
        target: %{
          {100_000, "integer"} => at_most(0.55),
          {1_000_000, "integer"} => at_most(0.55),
          {100_000, "binary"} => at_most(0.55),
          {1_000_000, "binary"} => at_most(0.55),
          {100_000, "process"} => at_most(0.7)
        },
        run: &memory/2
      },
      %Row{
        name: :memory_back,
        what: "memory after a million entries came and went ten times",
        theirs: %{"growth" => "after the first time", "left" => "when full"},
        sizes: [1_000_000],
        quick: [20_000],
        target: %{"growth" => at_most(1.05), "left" => at_most(0.1)},
        run: &memory_back/2
      }
    ]
  end

  defp at_most(times), do: {:at_most, times}

  # By default a VM allows fewer than a million processes.
  defp memory(size, context) do
    kinds = if size <= 100_000, do: ~w(integer binary process), else: ~w(integer binary)

    for kind <- kinds do
      samples =
        for _time <- 1..times(context) do
          {fill("ours", kind, size), fill("theirs", kind, size)}
        end

      # The worse of the VM's figure and the system's.
      0..1
      |> Enum.map(fn measure ->
        {ours, theirs} =
          samples
          |> Enum.map(fn {ours, theirs} -> {Enum.at(ours, measure), Enum.at(theirs, measure)} end)
          |> Enum.unzip()

        Bench.result(ours, theirs, lower: true, unit: :bytes, variant: kind)
      end)
      |> Enum.max_by(& &1.ratio)
    end
  end

  # Growth: the resident set after the last fill against that after the first. Left: the share of a
  # full table's memory that an empty one still takes.
  defp memory_back(size, context) do
    samples = for _time <- 1..times(context), do: probe(["back", "#{size}", "10"])

    growth = for {_before, _full, [_vm, first], [_vm_last, last]} <- samples, do: last / first

    left =
      for {before, full, _empty, last} <- samples do
        [before, full, last]
        |> Enum.zip_with(fn [before, full, last] -> max(last - before, 0) / (full - before) end)
        |> Enum.max()
      end

    {_before, _full, [_vm, first], [_vm_last, last]} = hd(samples)
    {[_vm_before, before], [_vm_full, full], _empty, _last} = hd(samples)

    [
      %Result{
        variant: "growth",
        unit: :bytes,
        ours: last,
        theirs: first,
        ratio: Bench.median(growth),
        spread: ends(growth)
      },
      %Result{
        variant: "left",
        unit: :bytes,
        ours: max(last - before, 0),
        theirs: full - before,
        ratio: Bench.median(left),
        spread: ends(left)
      }
    ]
  end

  defp ends(samples), do: [Enum.min(samples), Enum.max(samples)]

  # Memory varies less than time does.
  defp times(context), do: if(context.quick? or context.growth?, do: 1, else: 3)

  defp fill(side, kind, size), do: probe(["fill", side, kind, "#{size}"])

  # Disables the VM's cache of free segments (+MMmcs), which returns memory slowly. So the figure
  # shows what is freed.
  defp probe(arguments), do: VM.run(@probe, ["#{Foundation.engine()}" | arguments], "+MMmcs 0")
end
