defmodule Foundation.EventLog.Settings do
  @moduledoc false
  # The options of `Foundation.EventLog.start_link/1`, checked once, here.

  alias Foundation.{Config, Options}

  @schema [
    dir: [
      type: :string,
      doc: """
      The directory of this log, and of no other: a second log in it is refused. Made if it does
      not exist. Required.
      """
    ],
    sync: [
      type: {:in, [:always]},
      default: :always,
      doc: """
      `:always` syncs before an append returns. `{:interval, ms}` syncs within that time after it:
      faster, and a power cut may take the last interval with it.
      """
    ],
    max_event_bytes: [
      type: {:integer, 1..500_000_000},
      default: 16_000_000,
      doc: "An event that is larger, with its type and metadata, raises `ArgumentError`."
    ],
    segment_bytes: [
      type: {:integer, 1_000..2_000_000_000},
      default: 64_000_000,
      doc: "A file that has this many bytes gets no more, and the next one begins."
    ]
  ]

  @enforce_keys [:name, :dir, :sync_ms, :max_event_bytes, :segment_bytes, :adopt_timeout]
  defstruct @enforce_keys

  @type t :: %__MODULE__{
          name: atom,
          dir: Path.t(),
          sync_ms: non_neg_integer,
          max_event_bytes: pos_integer,
          segment_bytes: pos_integer,
          adopt_timeout: non_neg_integer
        }

  @doc "The schema, for the documentation."
  @spec schema() :: Options.schema()
  def schema, do: @schema

  @doc "The options as a struct. Raises `ArgumentError` for what is missing or wrong."
  @spec validate!(term) :: t
  def validate!(options) do
    unless Keyword.keyword?(options) do
      raise ArgumentError,
            "expected the options of an event log to be a keyword list, got: #{inspect(options)}"
    end

    # The last is for this library's own tests.
    {own, rest} = Keyword.split(options, [:name, :adopt_timeout])
    {sync, rest} = Keyword.pop(rest, :sync, :always)
    checked = Options.validate!(rest, @schema, "the options of an event log")

    %__MODULE__{
      name: name!(own[:name]),
      dir: dir!(checked[:dir]),
      sync_ms: sync!(sync),
      max_event_bytes: checked[:max_event_bytes],
      segment_bytes: checked[:segment_bytes],
      adopt_timeout: Keyword.get(own, :adopt_timeout, Config.get(:registry)[:adopt_timeout])
    }
  end

  defp name!(name) when is_atom(name) and name not in [nil, true, false, :undefined], do: name

  defp name!(other) do
    raise ArgumentError, "expected :name of an event log to be an atom, got: #{inspect(other)}"
  end

  defp dir!(dir) when is_binary(dir) and dir != "", do: Path.expand(dir)

  defp dir!(other) do
    raise ArgumentError,
          "expected :dir of an event log to be the path of a directory, got: #{inspect(other)}"
  end

  defp sync!(:always), do: 0
  defp sync!({:interval, ms}) when is_integer(ms) and ms > 0, do: ms

  defp sync!(other) do
    raise ArgumentError,
          "expected :sync of an event log to be :always or {:interval, milliseconds}, " <>
            "got: #{inspect(other)}"
  end
end
