defmodule Foundation.Resilience.Figures do
  @moduledoc false
  # The figures of all instances of this node, on both engines. An instance that stops meanwhile is
  # left out, or shown with what was read of it.

  alias Foundation.Native
  alias Foundation.Resilience.{ETS, Instance}
  alias Foundation.Resilience.ETS.Pool

  # How many targets of an instance are listed. The others are only counted.
  @listed 100

  @spec all() :: %{
          bulkheads: %{atom => map},
          circuit_breakers: %{atom => map},
          rate_limiters: %{atom => map}
        }
  def all do
    all = Map.merge(ets(), native())

    %{
      bulkheads: of_kind(all, :bulkhead),
      circuit_breakers: of_kind(all, :circuit_breaker),
      rate_limiters: of_kind(all, :rate_limiter)
    }
  end

  defp of_kind(all, kind),
    do: for({name, {^kind, figures}} <- all, into: %{}, do: {name, figures})

  defp new(:bulkhead, owner), do: %{owner_alive: alive?(owner), full: [], full_count: 0}
  defp new(:circuit_breaker, owner), do: %{owner_alive: alive?(owner), open: [], open_count: 0}
  defp new(:rate_limiter, owner), do: %{owner_alive: alive?(owner)}

  defp alive?(owner), do: is_pid(owner) and node(owner) == node() and Process.alive?(owner)

  defp add(%{full: full, full_count: count} = figures, target) when count < @listed,
    do: %{figures | full: [target | full], full_count: count + 1}

  defp add(%{full_count: count} = figures, _target), do: %{figures | full_count: count + 1}

  defp add(%{open: open, open_count: count} = figures, target) when count < @listed,
    do: %{figures | open: [target | open], open_count: count + 1}

  defp add(%{open_count: count} = figures, _target), do: %{figures | open_count: count + 1}

  ## The native engine

  defp native do
    for {name, kind} <- Native.resilience_names(),
        {^kind, owner} <- [Native.resilience_owner(name)],
        into: %{},
        do: {name, {kind, walk(kind, name, 0, new(kind, owner))}}
  end

  defp walk(:rate_limiter, _name, _cursor, figures), do: figures

  defp walk(kind, name, cursor, figures) do
    case chunk(kind, name, cursor) do
      # It has been stopped.
      nil ->
        figures

      {found, next} ->
        figures = Enum.reduce(found, figures, &add(&2, target(name, &1)))

        if next == :done do
          figures
        else
          # A call counts as one reduction, however long it takes.
          :erlang.yield()
          walk(kind, name, next, figures)
        end
    end
  end

  defp chunk(:bulkhead, name, cursor), do: Native.bulkhead_full(name, cursor)
  defp chunk(:circuit_breaker, name, cursor), do: Native.breaker_tripped(name, cursor)

  defp target(name, place) when place == :bare or elem(place, 0) == :key,
    do: Instance.target(name, place)

  defp target(name, {place, state}), do: {Instance.target(name, place), state}

  ## The ETS engine

  defp ets do
    instances = ETS.instances()
    configs = Map.new(instances, fn {name, kind, _owner, config} -> {name, {kind, config}} end)
    all = Map.new(instances, fn {name, kind, owner, _} -> {name, {kind, new(kind, owner)}} end)
    if all == %{}, do: all, else: ETS.reduce_limiting(all, &add_row(&1, &2, configs))
  end

  defp add_row({name, place, state}, all, configs) do
    case {configs, state} do
      {%{^name => {:bulkhead, config}}, {:in_use, in_use, resized}} ->
        if in_use >= Pool.most(%{resized: resized}, config),
          do: add_to(all, name, Instance.target(name, place)),
          else: all

      {%{^name => {:circuit_breaker, _config}}, {:phase, phase}} ->
        add_to(all, name, {Instance.target(name, place), phase})

      # It was started after the instances were read, or as another kind.
      _unknown ->
        all
    end
  end

  defp add_to(all, name, target),
    do: Map.update!(all, name, fn {kind, figures} -> {kind, add(figures, target)} end)
end
