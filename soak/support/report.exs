defmodule Soak.Report do
  @moduledoc false
  # The report for a reader. Its last line is for script/test.

  alias CrossReference.Format
  alias Soak.{Memory, Record}

  @label 50

  def heading(options) do
    "Soak: #{Format.figure(options.minutes)} minutes on the #{options.engine} engine, " <>
      "OTP #{System.otp_release()}, Elixir #{System.version()}, " <>
      "#{System.schedulers_online()} schedulers, seed #{options.seed}\n\n"
  end

  def text(areas, options, ms) do
    [
      operations(areas),
      faults(),
      memory(Memory.figures()),
      "  Invariants: what must not be, how often it was, how often it was looked for\n",
      for({invariant, sentence} <- Record.invariants(), do: invariant(invariant, sentence)),
      verdict(options, ms)
    ]
  end

  defp operations(areas) do
    counts = for area <- areas, do: {area.name(), Record.get({:operations, area.name()})}

    [
      "  Operations\n",
      for({name, count} <- counts, do: line(name, Format.integer(count))),
      line("all", counts |> Enum.map(&elem(&1, 1)) |> Enum.sum() |> Format.integer()),
      "\n"
    ]
  end

  defp faults do
    counts = Enum.sort(Record.faults())

    [
      "  Faults survived\n",
      for({kind, count} <- counts, do: line(kind, Format.integer(count))),
      line("all", counts |> Enum.map(&elem(&1, 1)) |> Enum.sum() |> Format.integer()),
      "\n"
    ]
  end

  defp memory({start, finish}) do
    [
      "  Memory, settled\n",
      line("resident at the start, at the end", both(start.resident, finish.resident)),
      line("of the VM at the start, at the end", both(start.vm, finish.vm)),
      "\n"
    ]
  end

  defp both(nil, nil), do: "not known here"
  defp both(start, finish), do: [Format.bytes(start), ", ", Format.bytes(finish)]

  defp invariant(invariant, sentence) do
    failures = Record.get({:failures, invariant})
    checks = Record.get({:checks, invariant})
    told = "#{Format.integer(failures)}  in #{Format.integer(checks)} checks"
    [line(sentence, told), for(detail <- Record.details(invariant), do: detail(detail))]
  end

  defp detail(text) when is_binary(text), do: ["    WRONG ", text, "\n"]
  defp detail(term), do: ["    WRONG ", inspect(term, limit: 50, printable_limit: 500), "\n"]

  defp verdict(options, ms) do
    all = Record.invariants()
    failed = Enum.count(all, fn {invariant, _} -> Record.get({:failures, invariant}) > 0 end)
    word = if failed == 0, do: "ok", else: "FAILED"

    [
      "\n",
      if(failed == 0,
        do: [],
        else:
          "Repeat the choice of faults: script/soak #{options.minutes} " <>
            "--engine #{options.engine} --seed #{options.seed}\n"
      ),
      "test result: #{word}. #{length(all) - failed} passed; #{failed} failed, in #{div(ms, 1_000)} s\n"
    ]
  end

  defp line(label, text), do: ["  ", String.pad_trailing(label, @label), text, "\n"]
end
