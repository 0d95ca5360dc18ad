defmodule Soak.Options do
  @moduledoc false
  # The command line, read once.

  @enforce_keys [:seed]
  defstruct [:seed, minutes: 2, engine: :native]

  @usage """
  usage: script/soak [MINUTES] [--engine native|ets] [--seed N]

    MINUTES                how long to break things (default: 2)
    --engine native|ets    run on that engine (default: native)
    --seed N               choose faults and work by N (default: a random one)
  """

  def usage, do: @usage

  def parse(argv) do
    case OptionParser.parse(argv, strict: [engine: :string, seed: :integer, help: :boolean]) do
      {options, rest, []} ->
        if options[:help], do: {:help, @usage}, else: build(options, rest)

      {_options, _rest, [{switch, _value} | _]} ->
        {:error, "unknown option or bad value: #{switch}"}
    end
  end

  defp build(options, rest) do
    with {:ok, minutes} <- minutes(rest),
         {:ok, engine} <- engine(options[:engine] || "native") do
      {:ok, %__MODULE__{seed: options[:seed] || seed(), minutes: minutes, engine: engine}}
    end
  end

  defp minutes([]), do: {:ok, %__MODULE__{seed: 0}.minutes}

  defp minutes([text]) do
    case Float.parse(text) do
      {minutes, ""} when minutes > 0 -> {:ok, minutes}
      _other -> {:error, "expected MINUTES to be a number above 0, got: #{text}"}
    end
  end

  defp minutes(_more), do: {:error, "expected MINUTES alone"}

  defp engine(engine) when engine in ["native", "ets"], do: {:ok, String.to_atom(engine)}
  defp engine(other), do: {:error, "expected --engine to be native or ets, got: #{other}"}

  defp seed, do: :erlang.phash2({System.os_time(), System.pid()}, 1_000_000)
end
