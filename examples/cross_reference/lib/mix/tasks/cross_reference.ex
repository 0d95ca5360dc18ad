defmodule Mix.Tasks.CrossReference do
  @shortdoc "Cross-references Erlang and Elixir with one agent a module, while agents are killed"

  @moduledoc """
  Cross-references the Erlang and Elixir installation that it runs on: which module calls which.

      $ mix cross_reference
      $ mix cross_reference --module lists --kill 25 --json figures.json

  One supervised agent stands for each module. `Foundation.AgentRegistry` registers it and
  `Foundation.Registry` names it. The agent reads the compiled code of its module. For every call
  in it, the agent looks up the agent of the called module and tells it.

  Meanwhile some of the agents are killed at random, and the owner of each of the two registries is
  killed once. Each call that an agent records is emitted as a batched and as a deduplicated event.
  Each module's work is a span. At the end the result is compared with a sequential computation.

  ## Options

    * `--modules N` - take only the first N modules, starting with those that others build on
      (default: all)
    * `--kill PERCENT` - kill this share of the agents (default: 10); 0 kills neither agents nor
      owners
    * `--module M` - list the callers of `M`, such as `lists` or `Enum`
    * `--engine native|ets` - run on that engine (default: the configured one)
    * `--seed N` - choose the victims by `N` (default: a random number, which is printed)
    * `--json FILE` - write all figures to `FILE`

  ## Exit status

    * 0 - the result is right, and every registration and event is accounted for
    * 1 - it is not
    * 2 - an option was not understood; the usage is on standard error
  """

  use Mix.Task

  @impl true
  def run(argv) do
    Mix.Task.run("app.config")
    CrossReference.Command.run(argv)
  end
end
