defmodule Foundation.ConcurrentTable.Named do
  @moduledoc false
  # A concurrent table with a name: its handle, in a persistent term, with the owner that stands
  # for it. `Foundation.Registry.TableHolder` creates it and hands it from owner to owner.
  #
  # The library's table belongs to no process, so nothing has to be handed on. It ends with its
  # name. An ETS table must belong to a process: to its owner, and to the holder after its death.

  @behaviour Foundation.Registry.HeldTable

  alias Foundation.ConcurrentRegistry

  @enforce_keys [:name, :kind, :backend, :entries, :handle]
  defstruct [:name, :kind, :backend, :entries, :handle, :owner, :adopt_timeout]

  @type t :: %__MODULE__{}

  defmodule Options do
    @moduledoc false
    # `kind` is the engine. A table of another engine is replaced.
    @enforce_keys [:name, :kind, :backend, :adopt_timeout]
    defstruct [:name, :kind, :backend, :adopt_timeout]
  end

  @doc "Returns the table of that name, or nil. O(1), without a copy."
  @spec get(atom) :: t | nil
  def get(name), do: :persistent_term.get({__MODULE__, name}, nil)

  @doc """
  Calls `fun` with the handle of the table. Raises if there is no table of that name, also when it
  ends meanwhile.
  """
  @spec on(term, (ConcurrentRegistry.t() -> result)) :: result when result: var
  def on(name, fun) when is_atom(name) do
    table = get(name) || unknown!(name)

    try do
      fun.(table.handle)
    rescue
      error in ArgumentError ->
        if there?(table), do: reraise(error, __STACKTRACE__), else: unknown!(name)
    end
  end

  def on(other, _fun) do
    raise ArgumentError, "expected a concurrent table or the name of one, got: #{inspect(other)}"
  end

  @spec unknown!(atom) :: no_return
  defp unknown!(name), do: raise(ArgumentError, "unknown concurrent table: #{inspect(name)}")

  @impl true
  def all, do: for({{__MODULE__, _name}, table} <- :persistent_term.get(), do: table)

  @impl true
  def fetch(name) do
    case get(name) do
      nil -> :error
      table -> {:ok, table}
    end
  end

  @impl true
  def publish(table), do: :persistent_term.put({__MODULE__, table.name}, table)

  @impl true
  def restore(table), do: publish(table)

  @impl true
  def withdraw(%{name: name, entries: entries}) do
    with %{entries: ^entries} <- get(name), do: :persistent_term.erase({__MODULE__, name})
    :ok
  end

  @impl true
  def create(%Options{name: name, kind: kind, backend: backend} = options) do
    entries = backend.new_kept(name)
    handle = %ConcurrentRegistry{backend: backend, table: entries}

    configure(
      %__MODULE__{name: name, kind: kind, backend: backend, entries: entries, handle: handle},
      options
    )
  end

  @impl true
  def configure(table, options), do: %{table | adopt_timeout: options.adopt_timeout}

  @impl true
  def parts(%{backend: backend, entries: entries}), do: backend.parts(entries)

  @impl true
  def there?(%{backend: backend, entries: entries}), do: backend.there?(entries)

  @impl true
  def retire(%{backend: backend, entries: entries} = table) do
    withdraw(table)
    backend.destroy(entries)
  end
end
