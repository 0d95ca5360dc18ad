defmodule Foundation.Telemetry.Events.Router do
  @moduledoc false
  # Decides where an event goes when the native stub returned `nil`. There are three routes:
  #
  # - the ETS engine. Tables of the native engine take it too, if they opened after the stub looked;
  # - legacy: windows in the process dictionary, with counts and strategies in the engine's tables;
  # - no tables, before the application's start and while the ETS tables are made anew: the event is
  #   emitted at once, because telemetry never breaks the code that it measures.

  alias Foundation.Legacy
  alias Foundation.Telemetry.Events.{Backend, Batch, BatchProcessor}

  # The longest name of the native engine (`NAME_MAX` in
  # native/foundation_nif/src/telemetry/mod.rs).
  @longest_name 32

  @spec emit_event([atom, ...], map, map, term, non_neg_integer | nil) :: :ok
  def emit_event(name, measurements, metadata, key, window) do
    name!(name)

    case take(&admit(&1, name, key, window)) do
      :emit -> :telemetry.execute(name, measurements, metadata)
      :ok -> :ok
      # The flag changed, or the native tables closed, after the route was chosen.
      nil -> emit_event(name, measurements, metadata, key, window)
    end
  end

  defp admit(:no_tables, _name, _key, _window), do: :emit

  defp admit({:legacy, backend}, name, key, window) do
    window = window || backend.settings(name).window

    cond do
      not Legacy.Windows.opens?({name, key}, window) ->
        backend.count(name, :suppressed)

      not backend.sample?(name) ->
        backend.count(name, :sampled_out)

      true ->
        backend.count(name, :emitted)
        :emit
    end
  end

  defp admit({:engine, backend}, name, key, window), do: backend.admit(name, key, window)

  @spec emit_batched(GenServer.name(), [atom, ...], map, map) :: :ok
  def emit_batched(server, name, measurements, metadata) do
    name!(name)

    case take(&append(&1, name, measurements, metadata)) do
      :ok -> :ok
      # No table takes it: there is none, or the tables were sealed after the route was chosen.
      :alone -> Batch.execute(name, [{System.system_time(), measurements, metadata}])
      # The native tables closed after the route was chosen.
      nil -> emit_batched(server, name, measurements, metadata)
      first_or_full -> BatchProcessor.tell(server, name, first_or_full)
    end
  end

  defp append(:no_tables, _name, _measurements, _metadata), do: :alone

  # Batches are the same with and without legacy code.
  defp append({_route, backend}, name, measurements, metadata),
    do: backend.append(name, measurements, metadata)

  @spec sample?(term) :: boolean
  def sample?(name), do: take(&sample?(&1, name))

  defp sample?(:no_tables, _name), do: true
  defp sample?({_route, backend}, name), do: backend.sample?(name)

  @doc """
  An event's name, or an `ArgumentError`.
  """
  @spec name!(term) :: [atom, ...]
  def name!(name) do
    cond do
      not (match?([_ | _], name) and not List.improper?(name) and Enum.all?(name, &is_atom/1)) ->
        raise ArgumentError,
              "expected an event name to be a non-empty list of atoms, got: #{inspect(name)}"

      length(name) > @longest_name ->
        raise ArgumentError,
              "expected an event name to have at most #{@longest_name} atoms, got #{length(name)}: " <>
                inspect(name, limit: 5)

      true ->
        name
    end
  end

  defp route do
    case Backend.running() do
      nil -> :no_tables
      backend -> {if(Legacy.Telemetry.on?(), do: :legacy, else: :engine), backend}
    end
  end

  defp take(fun) do
    case route() do
      :no_tables -> fun.(:no_tables)
      route -> take(route, fun)
    end
  end

  # A table can go away during the call: the process that owns the tables was killed. The event then
  # takes the route without tables. Any other error is one of the caller.
  defp take(route, fun) do
    fun.(route)
  rescue
    error in ArgumentError ->
      case __STACKTRACE__ do
        [{:ets, _function, _arguments, _location} | _] -> fun.(:no_tables)
        stacktrace -> reraise(error, stacktrace)
      end
  end
end
