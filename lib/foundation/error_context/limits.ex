defmodule Foundation.ErrorContext.Limits do
  @moduledoc false
  # The bounds of contexts: the values that `config :foundation, error_context: […]` may have, and
  # the defaults.

  # The fast paths rely on the minima without reading a setting. A string of at most 255 bytes is
  # within the limit for them, and they ignore the depth limit below 500.
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

  # This is not `Foundation.Config.get/1`, which checks the value. The start has done that, and
  # every context that is not of the simplest kind reads these.
  for {key, spec} <- @schema do
    @spec unquote(key)() :: pos_integer | atom
    def unquote(key)(), do: get(unquote(key), unquote(spec[:default]))
  end

  defp get(key, default) do
    :foundation |> Application.get_env(:error_context, []) |> Keyword.get(key, default)
  end
end
