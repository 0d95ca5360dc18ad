defmodule Foundation.Cache.Loading do
  @moduledoc false
  # A fetch that may load: it runs the loader, or waits for the load of another process.

  alias Foundation.Cache.{Backend, Config, Engines, Instance, LoadError}

  @start [:foundation, :cache, :load, :start]
  @stop [:foundation, :cache, :load, :stop]
  @exception [:foundation, :cache, :load, :exception]

  @type loader :: (() -> term) | (Backend.key() -> term)

  @spec fetch(atom, Backend.key(), loader, map) :: {:ok, Backend.value()} | {:error, term}
  def fetch(cache, key, loader, given) do
    case Engines.begin(cache, key, early(given)) do
      {kind, _value_or_reason} = kept when kind in [:ok, :error] ->
        kept

      other ->
        settings = Map.merge(Instance.config!(cache), given)
        deadline = deadline(settings.load_timeout)
        proceed(other, %{cache: cache, key: key, loader: loader}, settings, deadline)
    end
  end

  # 0 is never early; `nil` is what the cache says.
  defp early(%{early: nil}), do: 0
  defp early(given), do: given[:early]

  defp proceed({:load, lease}, call, settings, _deadline), do: load(lease, call, settings)
  defp proceed({:wait, ref}, call, settings, deadline), do: await(ref, call, settings, deadline)
  defp proceed(nil, call, _settings, _deadline), do: Instance.unknown!(call.cache)

  defp proceed(:again, call, settings, deadline) do
    again = Engines.begin_again(call.cache, call.key, early(settings))
    proceed(again, call, settings, deadline)
  end

  defp proceed(:recursion, call, _settings, _deadline) do
    raise ArgumentError,
          "the loader of #{inspect(call.key)} of #{inspect(call.cache)} fetches that key itself"
  end

  defp proceed(kept, _call, _settings, _deadline), do: kept

  ## Waiting

  defp await(ref, call, settings, deadline) do
    receive do
      {:foundation_cache, ^ref, answer} -> proceed(answer, call, settings, deadline)
    after
      left(deadline) -> give_up(ref, call, settings, deadline)
    end
  end

  defp give_up(ref, call, settings, deadline) do
    case Engines.cancel(call.cache, ref) do
      :cancelled ->
        error(call, :timeout, :timeout)

      # The answer was on its way: it may be the lease of a loader that has died.
      _answered_or_stopped ->
        receive do
          {:foundation_cache, ^ref, :again} -> error(call, :timeout, :timeout)
          {:foundation_cache, ^ref, answer} -> proceed(answer, call, settings, deadline)
        end
    end
  end

  defp error(call, kind, reason), do: {:error, load_error(call, kind, reason)}

  defp load_error(call, kind, reason),
    do: %LoadError{cache: call.cache, key: call.key, kind: kind, reason: reason}

  defp deadline(:infinity), do: :infinity
  defp deadline(ms), do: System.monotonic_time(:millisecond) + ms

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - System.monotonic_time(:millisecond))

  ## Loading

  # Callers that wait are answered before a handler of an event runs.
  defp load(lease, call, settings) do
    metadata = %{cache: call.cache, key: call.key}
    start = System.monotonic_time()
    measurements = %{system_time: System.system_time(), monotonic_time: start}
    :telemetry.execute(@start, measurements, metadata)

    try do
      call.loader |> run(call.key) |> outcome!(settings)
    catch
      kind, reason ->
        stacktrace = __STACKTRACE__

        Engines.finish(
          call.cache,
          call.key,
          lease,
          {:failed, failure(call, kind, reason, stacktrace)}
        )

        metadata = Map.merge(metadata, %{kind: kind, reason: reason, stacktrace: stacktrace})
        emit(@exception, start, metadata)
        :erlang.raise(kind, reason, stacktrace)
    else
      outcome ->
        stored = Engines.finish(call.cache, call.key, lease, outcome)
        answer = answer(outcome)
        result = %{result: elem(answer, 0), stored: stored == :stored}
        emit(@stop, start, Map.merge(metadata, result))
        answer
    end
  end

  defp emit(event, start, metadata) do
    now = System.monotonic_time()
    :telemetry.execute(event, %{duration: now - start, monotonic_time: now}, metadata)
  end

  defp failure(call, :error, reason, stacktrace),
    do: load_error(call, :error, Exception.normalize(:error, reason, stacktrace))

  defp failure(call, kind, reason, _stacktrace), do: load_error(call, kind, reason)

  defp run(loader, _key) when is_function(loader, 0), do: loader.()
  defp run(loader, key), do: loader.(key)

  defp outcome!({:ok, value}, settings), do: {:ok, value, settings.ttl, settings.stale}
  defp outcome!({:error, reason}, settings), do: {:error, reason, settings.negative_ttl}

  defp outcome!({:ok, value, options}, settings) do
    settings = Map.merge(settings, Config.loaded!(options))
    {:ok, value, settings.ttl, settings.stale}
  end

  defp outcome!(other, _settings) do
    raise ArgumentError,
          "expected a loader to return {:ok, value}, {:ok, value, ttl: ms} or {:error, reason}, " <>
            "got: #{inspect(other)}"
  end

  defp answer({:ok, value, _ttl, _stale}), do: {:ok, value}
  defp answer({:error, reason, _negative_ttl}), do: {:error, reason}
end
