defmodule Foundation.Test.DoomedNode do
  @moduledoc """
  A node that a test kills with `kill -9`, and what it printed before its death.

  It runs `main/1` of a module with a directory as its argument, and prints a line for each fact
  that the test must find again afterwards.
  """

  import ExUnit.Assertions

  @says_ms 120_000

  @enforce_keys [:port, :os_pid]
  defstruct @enforce_keys

  @doc "Starts a node that runs `module.main/1`."
  def start(module, dir) do
    # Without Elixir's own start-up, which would be most of the time.
    paths =
      for app <- [:elixir, :logger, :telemetry, :foundation] do
        ["-pa", app |> :code.lib_dir() |> Path.join("ebin")]
      end

    port =
      Port.open({:spawn_executable, System.find_executable("erl")}, [
        :binary,
        :exit_status,
        {:line, 1000},
        args: Enum.concat(paths) ++ ["-noinput", "-run", Atom.to_string(module), "main", dir]
      ])

    {:os_pid, os_pid} = Port.info(port, :os_pid)
    %__MODULE__{port: port, os_pid: os_pid}
  end

  @doc "Returns the next line that the node prints."
  def line(%{port: port}) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> flunk("the node ended with status #{status}")
    after
      @says_ms -> flunk("the node says nothing")
    end
  end

  @doc """
  Kills the node, and folds `fun` over the lines that it had written to its pipe. A line that was
  cut does not count.
  """
  def kill(%{port: port, os_pid: os_pid}, acc, fun) do
    {_output, 0} = System.cmd("kill", ["-9", "#{os_pid}"])
    drain(port, acc, fun)
  end

  defp drain(port, acc, fun) do
    receive do
      {^port, {:data, {:eol, line}}} -> drain(port, fun.(line, acc), fun)
      {^port, {:data, {:noeol, _cut}}} -> drain(port, acc, fun)
      {^port, {:exit_status, 137}} -> acc
    after
      @says_ms -> flunk("the node did not die")
    end
  end
end
