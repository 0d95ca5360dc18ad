defmodule Foundation.RequestContext do
  @moduledoc """
  The id of the request that a process is working on, as one key of its
  `Foundation.ErrorContext`, `:request_id`, and so in the metadata of all that it logs.

      iex> Foundation.RequestContext.with_request_id("r-1", fn ->
      ...>   {Foundation.RequestContext.request_id(), Logger.metadata()[:request_id]}
      ...> end)
      {"r-1", "r-1"}

  The statements of `Foundation.ErrorContext` on processes, bounds and consistency apply here too.
  """

  alias Foundation.{Callback, ErrorContext}

  @typedoc "Any term but `nil`; usually a string."
  @type id :: term

  @doc """
  Runs `fun` with `id` as the request's, and returns what it returns.

  However it ends, the id is then what it was before. Costs what
  `Foundation.ErrorContext.with_context/2` does. Raises `ArgumentError` if `id` is `nil`.

      iex> Foundation.RequestContext.with_request_id("r-1", &Foundation.RequestContext.request_id/0)
      "r-1"
  """
  @doc since: "0.1.0"
  @spec with_request_id(id, (() -> result)) :: result when result: var
  def with_request_id(id, fun) when is_function(fun, 0) do
    ErrorContext.with_context(%{request_id: valid!(id)}, fun)
  end

  def with_request_id(_id, other), do: Callback.refuse!(other, 0)

  @doc """
  Makes `id` the request's, until it is replaced, the context is cleared, or the `with_context/2`
  ends that this is called in. Returns `:ok`; costs what `Foundation.ErrorContext.set_context/1`
  does. Raises `ArgumentError` if `id` is `nil`.

      iex> Foundation.RequestContext.put_request_id("r-1")
      :ok
      iex> Foundation.ErrorContext.get_context()
      %{request_id: "r-1"}
  """
  @doc since: "0.1.0"
  @spec put_request_id(id) :: :ok
  def put_request_id(id) do
    ErrorContext.get_context()
    |> ErrorContext.add_metadata(%{request_id: valid!(id)})
    |> ErrorContext.set_context()
  end

  @doc """
  Returns the id of the request that this process works on, or `nil`. **Cost:** O(1).

      iex> Foundation.RequestContext.request_id()
      nil
  """
  @doc since: "0.1.0"
  @spec request_id() :: id | nil
  def request_id do
    case ErrorContext.get_context() do
      %ErrorContext{metadata: metadata} -> Map.get(metadata, :request_id)
      context -> Map.get(context, :request_id)
    end
  end

  @doc """
  Returns a new id: 20 characters of the URL-safe alphabet, unique across calls and nodes.
  **Cost:** O(1).

  It is unique, not secret: it is made of the time, the process and a counter.

      iex> Foundation.RequestContext.new_request_id() =~ ~r/^[A-Za-z0-9_-]{20}$/
      true
  """
  @doc since: "0.1.0"
  @spec new_request_id() :: String.t()
  def new_request_id do
    # As Plug.RequestId makes them. Random numbers would be taken from the process dictionary's
    # seed, or at many times the cost from :crypto.
    Base.url_encode64(<<
      System.system_time(:nanosecond)::64,
      :erlang.phash2({node(), self()}, 16_777_216)::24,
      :erlang.unique_integer()::32
    >>)
  end

  defp valid!(nil), do: raise(ArgumentError, "expected a request id, got: nil")
  defp valid!(id), do: id
end
