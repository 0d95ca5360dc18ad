defmodule Foundation.Registry.Options do
  @moduledoc false
  # The options of `Foundation.Registry.start_link/1`, checked once, here. The texts of the
  # errors are those of Elixir's `Registry`, which likewise ignores options it does not know.

  alias Foundation.{Config, Engine, Native}

  # The native engine keeps the number in 32 bits.
  @most_partitions 0xFFFF_FFFF

  @enforce_keys [:name, :kind, :engine]
  defstruct [
    :name,
    :kind,
    :engine,
    :adopt_timeout,
    :max_entries,
    :listeners,
    partitions: 1,
    meta: [],
    compressed: false,
    # Whether a crash of a process above its supervisor leaves the table (`Foundation.Ancestors`).
    ancestors: false
  ]

  @type kind :: :unique | :duplicate_key | :duplicate_pid
  @type t :: %__MODULE__{
          name: atom,
          kind: kind,
          engine: Engine.t(),
          adopt_timeout: timeout,
          max_entries: pos_integer | :infinity,
          partitions: pos_integer,
          listeners: [atom] | nil,
          meta: keyword,
          compressed: boolean,
          ancestors: boolean
        }

  @doc """
  The options as a struct. Raises `ArgumentError` for what is missing or wrong.
  """
  @spec validate!(keyword) :: t
  def validate!(options) do
    # In the order in which Elixir's Registry checks them: of two errors the first is raised.
    kind = kind!(Keyword.get(options, :keys))
    name = name!(Keyword.fetch(options, :name))
    meta = meta!(Keyword.get(options, :meta, []))
    partitions = partitions!(Keyword.get(options, :partitions, 1))
    listeners = listeners!(Keyword.fetch(options, :listeners))
    compressed = compressed!(Keyword.get(options, :compressed, false))
    settings = Config.get(:registry)

    %__MODULE__{
      name: name,
      kind: kind,
      meta: meta,
      partitions: partitions,
      listeners: listeners,
      compressed: compressed,
      ancestors: Keyword.get(options, :ancestors, false),
      # The options below are for this library's own tests.
      engine: engine!(Keyword.get_lazy(options, :engine, &Engine.selected/0)),
      adopt_timeout: bound!(options, :adopt_timeout, settings),
      max_entries: bound!(options, :max_entries, settings)
    }
  end

  defp bound!(options, key, settings) do
    Config.registry!(key, Keyword.get(options, key, settings[key]))
  end

  @doc """
  A kind as `start_link/1` and the error messages spell it.
  """
  @spec keys(kind) :: Foundation.Registry.keys()
  def keys(:unique), do: :unique
  def keys(:duplicate_key), do: {:duplicate, :key}
  def keys(:duplicate_pid), do: {:duplicate, :pid}

  defp kind!(:unique), do: :unique
  defp kind!(:duplicate), do: :duplicate_pid
  defp kind!({:duplicate, :pid}), do: :duplicate_pid
  defp kind!({:duplicate, :key}), do: :duplicate_key

  defp kind!(other) do
    raise ArgumentError,
          "expected :keys to be given and be one of :unique, :duplicate, {:duplicate, :key}, " <>
            "or {:duplicate, :pid}, got: #{inspect(other)}"
  end

  defp name!({:ok, name}) when is_atom(name), do: name

  defp name!({:ok, other}),
    do: raise(ArgumentError, "expected :name to be an atom, got: #{inspect(other)}")

  defp name!(:error), do: raise(ArgumentError, "expected :name option to be present")

  defp meta!(meta) do
    # Of a key that is given twice the last counts.
    if Keyword.keyword?(meta),
      do: meta |> Map.new() |> Map.to_list(),
      else: raise(ArgumentError, "expected :meta to be a keyword list, got: #{inspect(meta)}")
  end

  defp partitions!(partitions) when partitions in 1..@most_partitions, do: partitions

  defp partitions!(partitions) when is_integer(partitions) and partitions > 0 do
    raise ArgumentError,
          "expected :partitions to be an integer from 1 to #{@most_partitions}, " <>
            "got: #{inspect(partitions)}"
  end

  defp partitions!(other) do
    raise ArgumentError,
          "expected :partitions to be a positive integer, got: #{inspect(other)}"
  end

  # None named is not the same as none: what is adopted keeps those it has.
  defp listeners!(:error), do: nil

  defp listeners!({:ok, listeners}) do
    if is_list(listeners) and Enum.all?(listeners, &is_atom/1) do
      listeners
    else
      raise ArgumentError,
            "expected :listeners to be a list of named processes, got: #{inspect(listeners)}"
    end
  end

  defp compressed!(compressed) when is_boolean(compressed), do: compressed

  defp compressed!(other),
    do: raise(ArgumentError, "expected :compressed to be a boolean, got: #{inspect(other)}")

  defp engine!(:ets), do: :ets

  # Asked for by name where the library is missing, it fails here and not at the first call.
  defp engine!(:native) do
    if Native.library_version() == nil,
      do: raise(ArgumentError, "expected :engine to be :ets, because no native library is loaded")

    :native
  end

  defp engine!(other),
    do: raise(ArgumentError, "expected :engine to be :native or :ets, got: #{inspect(other)}")
end
