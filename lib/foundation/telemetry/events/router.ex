defmodule Foundation.Telemetry.Events.Router do
  @moduledoc false
  # Where an event goes when the native engine does not take it: to the ETS engine, or, while
  # there is no table at all (before the application's start, or in the moment in which the ETS
  # engine's tables are made anew), straight on. Telemetry never breaks what it measures.

  alias Foundation.Legacy
  alias Foundation.Telemetry.Events.{Backend, Batch, BatchProcessor}

  # What the native engine tells apart (`NAME_MAX` in native/foundation_nif/src/telemetry/mod.rs).
  @longest_name 32

  @spec emit_event([atom, ...], map, map, term, non_neg_integer | nil) :: :ok
  def emit_event(name, measurements, metadata, key, window) do
    name!(name)

    case decide(:emit, &admit(Legacy.Telemetry.on?(), &1, name, key, window)) do
      :emit -> :telemetry.execute(name, measurements, metadata)
      :ok -> :ok
      # The flag has changed, or the tables have closed, since it was asked who is to decide.
      nil -> emit_event(name, measurements, metadata, key, window)
    end
  end

  # Legacy windows, and counts and strategies where they always are.
  defp admit(_legacy = true, backend, name, key, window) do
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

  defp admit(_legacy = false, backend, name, key, window), do: backend.admit(name, key, window)

  @spec emit_batched(GenServer.name(), [atom, ...], map, map) :: :ok
  def emit_batched(server, name, measurements, metadata) do
    name!(name)

    case decide(:alone, & &1.append(name, measurements, metadata)) do
      :ok -> :ok
      :alone -> Batch.execute(name, [{System.system_time(), measurements, metadata}])
      # The tables have closed since it was asked who is to take it.
      nil -> emit_batched(server, name, measurements, metadata)
      edge -> BatchProcessor.tell(server, name, edge)
    end
  end

  @spec sample?(term) :: boolean
  def sample?(name), do: decide(true, & &1.sample?(name))

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

  defp decide(without_tables, fun) do
    case Backend.running() do
      nil -> without_tables
      backend -> decide(without_tables, backend, fun)
    end
  end

  # A table that goes away in the middle is no fault of the caller; everything else is.
  defp decide(without_tables, backend, fun) do
    fun.(backend)
  rescue
    error in ArgumentError ->
      case __STACKTRACE__ do
        [{:ets, _function, _arguments, _location} | _] -> without_tables
        stacktrace -> reraise(error, stacktrace)
      end
  end
end
