defmodule Foundation.Cache.Instance do
  @moduledoc false
  # The caches of this node, and their owners. Each has a row in a table of the application's own
  # process, so that it outlives the owner:
  #
  #     {name, engine, owner, config, cells, adopt_timeout}

  @behaviour Foundation.Owner
  @behaviour Foundation.Reaper

  alias Foundation.{Cluster, Config, Engine, Owner, Reaper}
  alias Foundation.Cache.Backends.{ETS, Native}
  alias Foundation.Cache.Cells

  @table __MODULE__
  @reaper Foundation.Cache.Reaper
  @reopen_ms 10

  @type config :: Foundation.Cache.Config.t()

  @doc "Makes the tables, for the process that lives as long as the application."
  @spec open_tables() :: :ok
  def open_tables do
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
    :ok = Native.stop_all()
    ETS.open_tables()
  end

  @doc "The process that removes caches which have no owner any more."
  @spec reaper() :: atom
  def reaper, do: @reaper

  @spec start_link(config) :: GenServer.on_start()
  def start_link(config) do
    # Raises for a cluster that is not there.
    if config.cluster, do: Cluster.Config.fetch!(config.cluster)
    Owner.start_link(__MODULE__, %{config | engine: engine!(config.engine || Engine.selected())})
  end

  defp engine!(:native) do
    if Foundation.Native.library_version() == nil,
      do: raise(ArgumentError, "expected :engine to be :ets, for no native library is loaded")

    :native
  end

  defp engine!(:ets), do: :ets

  ## What there is

  @spec config(atom) :: config | nil
  def config(name) do
    case :ets.lookup(@table, name) do
      [{_name, _engine, _owner, config, _cells, _timeout}] -> config
      [] -> nil
    end
  end

  @spec config!(atom) :: config
  def config!(name), do: config(name) || unknown!(name)

  @spec cells(atom) :: Cells.t() | nil
  def cells(name) do
    case :ets.lookup(@table, name) do
      [{_name, _engine, _owner, _config, cells, _timeout}] -> cells
      [] -> nil
    end
  end

  @spec owner(atom) :: pid | nil
  def owner(name) do
    case :ets.lookup(@table, name) do
      [{_name, _engine, owner, _config, _cells, _timeout}] -> owner
      [] -> nil
    end
  end

  @doc "The counters of a cache of the ETS engine."
  @spec ets_cells(atom) :: Cells.t() | nil
  def ets_cells(name) do
    with {cells, _config} <- ets(name), do: cells
  end

  @spec ets(atom) :: {Cells.t(), config} | nil
  def ets(name) do
    case :ets.lookup(@table, name) do
      [{_name, :ets, _owner, config, cells, _timeout}] -> {cells, config}
      _none_or_native -> nil
    end
  end

  @spec ets?(atom) :: boolean
  def ets?(name), do: ets(name) != nil

  @doc "All caches; none where the application is not running."
  @spec all() :: [{config, owner :: pid, Cells.t()}]
  def all do
    :ets.select(@table, [{{:_, :_, :"$1", :"$2", :"$3", :_}, [], [{{:"$2", :"$1", :"$3"}}]}])
  rescue
    # There is no table.
    ArgumentError -> []
  end

  @spec unknown!(term) :: no_return
  def unknown!(name) when is_atom(name),
    do: raise(ArgumentError, "unknown cache: #{inspect(name)}")

  def unknown!(name) do
    raise ArgumentError, "expected the name of a cache to be an atom, got: #{inspect(name)}"
  end

  ## The owner

  @impl Foundation.Owner
  def open(%{name: name} = config) do
    case owner(name) do
      owner when is_pid(owner) and owner != self() ->
        if Process.alive?(owner),
          do: {:error, {:already_started, owner}},
          else: adopt(config)

      _own_or_none ->
        adopt(config)
    end
  end

  defp adopt(%{name: name, engine: engine} = config) do
    adopt_timeout = Config.get(:registry)[:adopt_timeout]
    cells = cells(name) || Cells.new()

    # A crash may have left one in the other engine, before a change of configuration.
    case config(name) do
      %{engine: other} when other != engine -> backend(other).stop(name, cells)
      _same_or_none -> :ok
    end

    :ets.insert(@table, {name, engine, self(), config, cells, adopt_timeout})
    Reaper.watch(@reaper, name, self(), adopt_timeout)

    with {:ok, state} <- backend(engine).open(config, adopt_timeout) do
      reaper = Process.monitor(@reaper)
      {:ok, %{config: config, backend: backend(engine), state: state, reaper: reaper}}
    end
  end

  defp backend(:ets), do: ETS
  defp backend(:native), do: Native

  @impl Foundation.Owner
  def owner?(name, pid), do: owner(name) == pid

  @impl Foundation.Owner
  def close(%{config: config, backend: backend}) do
    # The application may have ended before, and the table with it.
    if :ets.whereis(@table) != :undefined, do: stop(config.name, backend)
  end

  # The row goes first: callers that wait for the owner, or for a load, learn that there is no
  # cache.
  defp stop(name, backend) do
    cells = cells(name)
    :ets.delete(@table, name)
    if cells, do: backend.stop(name, cells)
  end

  # The application may have been stopped, and all caches with it. If it is started again, an owner
  # that has outlived it opens its cache anew.
  @impl Foundation.Owner
  def handle_message({:DOWN, ref, :process, _pid, _reason}, %{reaper: ref} = owned),
    do: reopen(owned)

  def handle_message(:reopen, owned), do: reopen(owned)

  def handle_message(message, %{backend: backend} = owned),
    do: %{owned | state: backend.handle_message(message, owned.state)}

  defp reopen(%{config: config} = owned) do
    cond do
      Process.whereis(@reaper) == nil ->
        Process.send_after(self(), :reopen, @reopen_ms)
        owned

      owner(config.name) == self() ->
        %{owned | reaper: Process.monitor(@reaper)}

      true ->
        {:ok, opened} = adopt(config)
        opened
    end
  end

  @impl Foundation.Owner
  def handle_request(request, _from, %{backend: backend} = owned) do
    {reply, state} = backend.handle_request(request, owned.state)
    {:reply, reply, %{owned | state: state}}
  end

  ## The reaper

  @impl Foundation.Reaper
  def owners do
    :ets.select(@table, [{{:"$1", :_, :"$2", :_, :_, :"$3"}, [], [{{:"$1", :"$2", :"$3"}}]}])
  end

  @impl Foundation.Reaper
  def forget(name, owner) do
    with [{_name, engine, ^owner, _config, _cells, _timeout}] <- :ets.lookup(@table, name),
         do: stop(name, backend(engine))
  end
end
