defmodule Foundation.Cache.LoadError do
  @moduledoc """
  A load that gave no answer to the callers that waited for it.

  `Foundation.Cache.fetch/4` returns it as `{:error, %Foundation.Cache.LoadError{}}` to those who
  waited for the load of another process. The process that ran the loader gets the raise itself.

    * `:cache`, `:key` - the load.
    * `:kind` - `:error`, `:throw` or `:exit`, as in `catch`; `:timeout` where nothing came in time.
    * `:reason` - the exception, the thrown value or the reason of the exit; `:timeout` where
      nothing came within the `:load_timeout`
  """

  defexception [:cache, :key, :kind, :reason]

  @type t :: %__MODULE__{
          cache: atom,
          key: term,
          kind: :error | :throw | :exit | :timeout,
          reason: term
        }

  @impl true
  def message(%__MODULE__{} = error),
    do: "the load of #{inspect(error.key)} of #{inspect(error.cache)} #{how(error)}"

  defp how(%{reason: :timeout, kind: :timeout}), do: "did not end in time"
  defp how(%{kind: nil, reason: reason}), do: "failed: #{inspect(reason)}"
  defp how(%{kind: kind, reason: reason}), do: "failed: " <> Exception.format_banner(kind, reason)
end
