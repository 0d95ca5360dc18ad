defmodule Foundation.Resilience.ETS.Pool do
  @moduledoc false
  # The permits of one key in the ETS engine. The permits that are out are rows of their own, which
  # the server keeps.

  defstruct in_use: 0,
            waiting: :queue.new(),
            resized: nil,
            granted: 0,
            rejected: 0,
            timed_out: 0,
            reclaimed: 0

  @type t :: %__MODULE__{}
  @type waiter :: {reference, pid, weight :: pos_integer}

  def idle_from(%{in_use: 0} = pool, _config, _now),
    do: if(:queue.is_empty(pool.waiting), do: 0, else: :busy)

  def idle_from(_pool, _config, _now), do: :busy

  @doc "Returns the most that may be out. A pool that was resized before another `:max` has that."
  def most(%{resized: {max, of_max}}, %{max: of_max}), do: max
  def most(_pool, config), do: config.max

  def info(pool, config) do
    {most(pool, config), pool.in_use, :queue.len(pool.waiting), pool.granted, pool.rejected,
     pool.timed_out, pool.reclaimed}
  end

  @spec acquire(t, map, waiter, waits? :: boolean) :: {:granted | :waits | :full, t}
  def acquire(pool, config, {_ref, _pid, weight} = waiter, waits?) do
    max = most(pool, config)
    empty? = :queue.is_empty(pool.waiting)
    # With the newest first a waiter is at the front as soon as it comes.
    first? = empty? or (config.order == :lifo and waits?)

    cond do
      weight > max ->
        {:full, %{pool | rejected: pool.rejected + 1}}

      first? and pool.in_use + weight <= max ->
        {:granted, %{pool | in_use: pool.in_use + weight, granted: pool.granted + 1}}

      waits? and :queue.len(pool.waiting) < config.queue ->
        {:waits, %{pool | waiting: :queue.in(waiter, pool.waiting)}}

      true ->
        {:full, %{pool | rejected: pool.rejected + 1}}
    end
  end

  @doc "Takes back a permit of that weight."
  def release(pool, weight, reclaimed),
    do: %{pool | in_use: pool.in_use - weight, reclaimed: pool.reclaimed + reclaimed}

  @doc "Takes a waiter out: `nil` where there is no such one."
  def cancel(pool, ref) do
    waiting = :queue.filter(fn {other, _pid, _weight} -> other != ref end, pool.waiting)

    if :queue.len(waiting) < :queue.len(pool.waiting),
      do: %{pool | waiting: waiting},
      else: nil
  end

  def waits?(pool, ref),
    do: Enum.any?(:queue.to_list(pool.waiting), fn {other, _pid, _weight} -> other == ref end)

  @doc "Serves waiters in order: those that are granted or refused, and the pool."
  @spec serve(t, map) :: {[{:granted | :full, waiter}], t}
  def serve(pool, config), do: serve(pool, config, [])

  defp serve(pool, config, served) do
    case front(pool, config) do
      :empty ->
        {Enum.reverse(served), pool}

      {{_ref, pid, weight} = waiter, waiting} ->
        cond do
          not Process.alive?(pid) ->
            serve(%{pool | waiting: waiting}, config, served)

          weight > most(pool, config) ->
            pool = %{pool | waiting: waiting, rejected: pool.rejected + 1}
            serve(pool, config, [{:full, waiter} | served])

          pool.in_use + weight <= most(pool, config) ->
            in_use = pool.in_use + weight
            pool = %{pool | waiting: waiting, in_use: in_use, granted: pool.granted + 1}
            serve(pool, config, [{:granted, waiter} | served])

          true ->
            {Enum.reverse(served), pool}
        end
    end
  end

  defp front(pool, %{order: order}) do
    out = if order == :lifo, do: :queue.out_r(pool.waiting), else: :queue.out(pool.waiting)

    case out do
      {{:value, waiter}, waiting} -> {waiter, waiting}
      {:empty, _waiting} -> :empty
    end
  end

  @doc "Sets the most that may be out: the waiters that weigh more, and the pool."
  def resize(pool, config, max) do
    {heavy, rest} =
      pool.waiting
      |> :queue.to_list()
      |> Enum.split_with(fn {_ref, _pid, weight} -> weight > max end)

    pool = %{
      pool
      | resized: {max, config.max},
        waiting: :queue.from_list(rest),
        rejected: pool.rejected + length(heavy)
    }

    {Enum.map(heavy, &{:full, &1}), pool}
  end
end
