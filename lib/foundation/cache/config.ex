defmodule Foundation.Cache.Config do
  @moduledoc false
  # The options of a cache, and those of a call.

  alias Foundation.Options

  @most_bytes 1_000_000_000_000_000
  @most_entries 0xFFFF_FFFF

  @early {:or, [{:number, :above, 0, 1_000_000}, {:in, [nil]}]}

  @times [
    ttl: [
      type: Options.time(0),
      default: :infinity,
      doc: "How many milliseconds a value is fresh. With 0 it is not kept."
    ],
    stale: [
      type: Options.time(0),
      default: 0,
      doc: """
      For how many milliseconds after its `:ttl` a value is still served, while one caller
      refreshes it.
      """
    ],
    negative_ttl: [
      type: Options.time(0),
      default: 0,
      doc: "For how many milliseconds the `{:error, reason}` of a loader is kept."
    ],
    early: [
      type: @early,
      default: nil,
      doc: """
      A factor that lets one caller refresh a value before its `:ttl` is over, the more likely the
      nearer the end is and the longer its load took (XFetch). 1.0 is a good value; `nil` does not.
      """
    ],
    load_timeout: [
      type: Options.time(1),
      default: 30_000,
      doc: "How many milliseconds a caller waits for the load of another process."
    ]
  ]

  @schema [
            name: [
              type: :atom,
              required: true,
              doc: "The name that the cache is called by. Its owner is registered under it."
            ],
            max_bytes: [
              type: {:integer, 1..@most_bytes},
              required: true,
              doc: "How many bytes the entries take at most, keys and overhead included."
            ],
            max_entries: [
              type: {:or, [{:integer, 1..@most_entries}, {:in, [:infinity]}]},
              default: :infinity,
              doc: "How many entries there are at most."
            ]
          ] ++
            @times ++
            [
              cluster: [
                type: {:or, [:atom, {:in, [nil]}]},
                default: nil,
                doc: """
                The `Foundation.Cluster` on whose nodes a `put/4`, `delete/2` or `clear/1` here
                invalidates what is cached there.
                """
              ],
              engine: [
                type: {:in, [:native, :ets]},
                default: nil,
                doc: "What holds the entries. By default the engine of the application."
              ]
            ]

  # Without defaults: those are the cache's.
  @fetch for {key, spec} <- @times, do: {key, Keyword.put(spec, :default, :cache)}
  @put Keyword.take(@fetch, [:ttl, :stale])

  @type t :: %{
          name: atom,
          engine: Foundation.Engine.t(),
          max_bytes: pos_integer,
          max_entries: pos_integer | :infinity,
          ttl: timeout,
          stale: timeout,
          negative_ttl: timeout,
          early: number | nil,
          load_timeout: timeout,
          cluster: atom
        }

  @spec schema() :: Options.schema()
  def schema, do: @schema

  @doc "The options of a fetch as a Markdown list."
  @spec fetch_docs() :: String.t()
  def fetch_docs, do: docs(@fetch)

  @doc "The options of a put as a Markdown list."
  @spec put_docs() :: String.t()
  def put_docs, do: docs(@put)

  defp docs(schema) do
    Enum.map_join(Keyword.keys(schema), "\n", &"  * `#{inspect(&1)}` - as the cache's own")
  end

  @doc "The options of a cache with their defaults. Raises `ArgumentError`."
  @spec validate!(term) :: t
  def validate!(options) do
    options |> Options.validate!(@schema, "the options of Foundation.Cache") |> Map.new()
  end

  @doc "The options of a fetch that were given."
  @spec fetch!(term) :: map
  def fetch!([]), do: %{}
  def fetch!(options), do: given(options, @fetch, "the options of Foundation.Cache.fetch/4")

  @doc "The options of a put that were given."
  @spec put!(term) :: map
  def put!([]), do: %{}
  def put!(options), do: given(options, @put, "the options of Foundation.Cache.put/4")

  @doc "What a loader says of its value. Raises `ArgumentError`."
  @spec loaded!(term) :: map
  def loaded!(options), do: given(options, @put, "what a loader returned")

  defp given(options, schema, place) do
    for {key, value} when value != :cache <- Options.validate!(options, schema, place),
        into: %{},
        do: {key, value}
  end
end
