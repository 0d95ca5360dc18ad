defmodule Foundation.ErrorContext.Limits do
  @moduledoc false
  # The bounds of contexts: what `config :foundation, error_context: […]` may hold, and what
  # holds where it says nothing.

  # The fast paths rely on the lower ends without reading a setting. A string of at most 255 bytes
  # is within the limit for them, and they do not look at the limit of depth before 500.
  @schema [
    max_depth: [
      type: {:integer, 500..100_000},
      default: 1_000,
      doc: """
      How many `with_context/2` may be nested in one process. A deeper one logs a
      warning and runs its function in the current context.
      """
    ],
    max_breadcrumbs: [
      type: {:integer, 1..10_000},
      default: 100,
      doc: "How many breadcrumbs a context keeps; past it the oldest goes."
    ],
    max_value_bytes: [
      type: {:integer, 255..4_096},
      default: 1_024,
      doc: "How long one printed value may be; past it, it is cut and ends in `…`."
    ],
    max_printed_bytes: [
      type: {:integer, 4_096..16_384},
      default: 8_192,
      doc: """
      How long all printed keys and values of a context may be together. Keys that find
      no room are in `:error_context` only, and `:error_context_cut` says how many.
      """
    ],
    nested: [
      type: {:in, [:as_is, :text]},
      default: :as_is,
      doc: """
      How a map, list, struct or tuple stands under its own key in Logger metadata: `:as_is`
      for handlers that take it apart (Sentry, LoggerJSON), or `:text` for consoles, whose
      formatter leaves such values out.
      """
    ]
  ]

  @spec schema() :: Foundation.Options.schema()
  def schema, do: @schema

  # Not `Foundation.Config.get/1`: that one checks, which the start has done, and this is
  # read whenever a context is not of the simplest kind.
  for {key, spec} <- @schema do
    @spec unquote(key)() :: pos_integer | atom
    def unquote(key)(), do: get(unquote(key), unquote(spec[:default]))
  end

  defp get(key, default) do
    :foundation |> Application.get_env(:error_context, []) |> Keyword.get(key, default)
  end
end
