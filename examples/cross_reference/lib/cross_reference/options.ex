defmodule CrossReference.Options do
  @moduledoc false
  # The options of the command line.

  @enforce_keys [:seed]
  defstruct [:seed, :modules, :engine, :module, :json, kill: 10]

  @type t :: %__MODULE__{
          seed: non_neg_integer,
          modules: pos_integer | nil,
          engine: :native | :ets | nil,
          module: String.t() | nil,
          json: Path.t() | nil,
          kill: 0..100
        }

  @switches [
    modules: :integer,
    kill: :integer,
    engine: :string,
    seed: :integer,
    module: :string,
    json: :string,
    help: :boolean
  ]

  @usage """
  Usage: script/demo [options]

    --modules N            take the first N modules only (default: all)
    --kill PERCENT         kill so many of the agents, and each registry's owner
                           once (default: 10; 0 kills nothing)
    --module M             list the callers of M, such as lists or Enum
    --engine native|ets    run on that engine (default: the configured one)
    --seed N               choose whom to kill by N (default: a random one)
    --json FILE            write all figures to FILE
    --help                 print this
  """

  @spec usage() :: String.t()
  def usage, do: @usage

  @doc "Reads `argv`. The error is a sentence for a person."
  @spec parse([String.t()]) :: {:ok, t} | :help | {:error, String.t()}
  def parse(argv) do
    case OptionParser.parse(argv, strict: @switches) do
      {options, [], []} ->
        build(options)

      {_options, _rest, [{switch, nil} | _]} ->
        {:error, unknown(switch)}

      {_options, _rest, [{switch, value} | _]} ->
        {:error, "#{switch} cannot be #{inspect(value)}"}

      {_options, [argument | _], []} ->
        {:error, "unexpected argument #{inspect(argument)}"}
    end
  end

  # OptionParser reports a known switch without its value like an unknown one.
  defp unknown(switch) do
    names = for {name, _type} <- @switches, do: "--#{name}"
    near = Enum.max_by(names, &String.jaro_distance(&1, switch))

    cond do
      switch in names ->
        "#{switch} needs a value"

      String.jaro_distance(near, switch) > 0.8 ->
        "unknown option #{switch}, did you mean #{near}?"

      true ->
        "unknown option #{switch}"
    end
  end

  defp build(options) do
    if options[:help] do
      :help
    else
      Enum.reduce_while(options, {:ok, %__MODULE__{seed: random_seed()}}, fn option,
                                                                             {:ok, built} ->
        case put(option, built) do
          %__MODULE__{} = built -> {:cont, {:ok, built}}
          message -> {:halt, {:error, message}}
        end
      end)
    end
  end

  defp put({:modules, n}, built) when n > 0, do: %{built | modules: n}
  defp put({:modules, n}, _built), do: "expected --modules to be 1 or more, got: #{n}"
  defp put({:kill, percent}, built) when percent in 0..100, do: %{built | kill: percent}
  defp put({:kill, n}, _built), do: "expected --kill to be a percentage from 0 to 100, got: #{n}"
  defp put({:engine, "native"}, built), do: %{built | engine: :native}
  defp put({:engine, "ets"}, built), do: %{built | engine: :ets}
  defp put({:engine, other}, _built), do: "expected --engine to be native or ets, got: #{other}"
  defp put({:seed, n}, built) when n >= 0, do: %{built | seed: n}
  defp put({:seed, n}, _built), do: "expected --seed to be 0 or more, got: #{n}"
  defp put({:module, name}, built), do: %{built | module: name}

  # A file that cannot be written must not be found out after the work is done.
  defp put({:json, file}, built) do
    cond do
      File.dir?(file) -> "expected --json to be a file, got the directory: #{file}"
      File.dir?(Path.dirname(file)) -> %{built | json: file}
      true -> "expected --json to be in a directory that exists, got: #{file}"
    end
  end

  defp put({:help, false}, built), do: built

  # Not from :rand, which would leave its state in the caller's process dictionary.
  defp random_seed, do: :erlang.phash2({System.os_time(), System.pid()}, 1_000_000)
end
