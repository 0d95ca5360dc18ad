# Small modules of the shape of Jido's, for the tests of `Foundation.Jido`. Jido needs a later
# Elixir than this library. Where it is there, it is used itself.
unless Code.ensure_loaded?(Jido.Storage) do
  defmodule Jido.Thread.Entry do
    @moduledoc false
    defstruct [:id, seq: 0, at: nil, kind: :note, payload: %{}, refs: %{}]
    @type t :: %__MODULE__{}
  end

  defmodule Jido.Thread do
    @moduledoc false
    defstruct [
      :id,
      :created_at,
      :updated_at,
      rev: 0,
      entries: [],
      metadata: %{},
      stats: %{entry_count: 0}
    ]

    @type t :: %__MODULE__{}
  end

  defmodule Jido.Storage do
    @moduledoc false
    @callback get_checkpoint(term, keyword) :: {:ok, term} | :not_found | {:error, term}
    @callback put_checkpoint(term, term, keyword) :: :ok | {:error, term}
    @callback delete_checkpoint(term, keyword) :: :ok | {:error, term}
    @callback load_thread(String.t(), keyword) ::
                {:ok, Jido.Thread.t()} | :not_found | {:error, term}
    @callback append_thread(String.t(), [Jido.Thread.Entry.t()], keyword) ::
                {:ok, Jido.Thread.t()} | {:error, term}
    @callback delete_thread(String.t(), keyword) :: :ok | {:error, term}
  end

  defmodule Jido.Observe.Tracer do
    @moduledoc false
    @callback span_start([atom], map) :: term
    @callback span_stop(term, map) :: :ok
    @callback span_exception(term, atom, term, list) :: :ok
    @callback with_span_scope([atom], map, (() -> result)) :: result when result: term
    @optional_callbacks with_span_scope: 3
  end
end
