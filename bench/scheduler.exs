Code.require_file("support/vm.exs", __DIR__)

defmodule Bench.Scheduler do
  @moduledoc false
  # The longest time that one native call keeps a normal scheduler, in large tables, under every
  # operation that the other rows measure.
  #
  # Two clocks measure it. The figure is from inside: a library built with the feature `measure`
  # times each of its calls, and names the longest on a normal scheduler. From outside,
  # `:erlang.system_monitor/2` reports each process that ran for a millisecond without a break
  # (`long_schedule`). That also covers the VM's own work, such as that for a process that exits.
  # Each figure is the median of three runs.

  alias Bench.{Result, Row, VM}

  @limit_ns 1_000_000
  @root Path.dirname(__DIR__)
  @probe Path.expand("support/scheduler_probe.exs", __DIR__)

  def rows do
    [
      %Row{
        name: :scheduler,
        what: "longest native call on a normal scheduler",
        theirs: "1 ms",
        sizes: [1_000_000],
        quick: [20_000],
        target: {:at_most, 1},
        run: &scheduler/2
      }
    ]
  end

  defp scheduler(size, context) do
    # The other engine makes no native calls.
    if Foundation.engine() == :native do
      library = build()
      times = if context.quick?, do: 1, else: 3
      runs = for _time <- 1..times, do: VM.run(@probe, [library, "#{size}"])
      Enum.zip_with(runs, &result/1)
    else
      []
    end
  end

  defp result([{name, _longest, _function, _ran, _calls, _seen} | _] = runs) do
    longest = Enum.map(runs, &elem(&1, 1))
    median = Bench.median(longest)
    {_, _, function, _, calls, _} = Enum.find(runs, &(elem(&1, 1) == median))
    [ran, seen] = for index <- [3, 5], do: Bench.median(Enum.map(runs, &elem(&1, index)))

    %Result{
      variant: name,
      ours: median,
      theirs: @limit_ns,
      ratio: median / @limit_ns,
      spread: [Enum.min(longest) / @limit_ns, Enum.max(longest) / @limit_ns],
      more: [function: function, calls: calls, ran_ns: ran, long_schedule_ms: seen]
    }
  end

  # The same sources and profile as the library in use, but a directory of its own, so the library
  # in use is not replaced.
  defp build do
    cargo =
      System.find_executable("cargo") ||
        raise "cargo is needed to build a library that times its calls"

    target = Path.expand("#{System.get_env("CARGO_TARGET_DIR", "target")}/measure", @root)

    arguments =
      ~w(build --quiet --release --locked --package foundation_nif) ++
        ~w(--features measure --target-dir) ++
        [target]

    # Without a target from the environment, cargo's output goes where this script looks for it.
    case System.cmd(cargo, arguments,
           cd: @root,
           stderr_to_stdout: true,
           env: [{"CARGO_BUILD_TARGET", nil}]
         ) do
      {_output, 0} -> Path.rootname(loadable(target))
      {output, status} -> raise "cargo build failed with status #{status}:\n#{output}"
    end
  end

  # The VM expects `.so`, even where the system's suffix is `.dylib`.
  defp loadable(target) do
    [built | _] = Path.wildcard("#{target}/release/libfoundation_nif.{so,dylib}")
    file = Path.join(target, "foundation_nif.so")
    File.cp!(built, file)
    file
  end
end
