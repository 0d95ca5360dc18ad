defmodule Foundation.TelemetryModel do
  @moduledoc """
  A model of telemetry events as a plain value: the oracle of the state-machine tests.

  Its windows never end. Its batches are emitted by size and by flush only.
  """

  @outcomes [:emitted, :suppressed, :sampled_out, :dropped, :pending]

  defstruct windows: [], evicted: 0, counts: %{}, strategies: %{}, batches: %{}, bounds: %{}

  def new(bounds), do: %__MODULE__{bounds: Map.new(bounds)}

  @doc "Each step returns the emitted events, `{name, number | [number]}`, and the next model."
  def emit(model, name, key, n) do
    cond do
      {name, key} in model.windows ->
        {[], count(model, name, :suppressed, 1)}

      model.strategies[name] == :never ->
        {[], model |> open({name, key}) |> count(name, :sampled_out, 1)}

      true ->
        {[{name, n}], model |> open({name, key}) |> count(name, :emitted, 1)}
    end
  end

  def append(model, name, n) do
    cond do
      model.strategies[name] == :never ->
        {[], count(model, name, :sampled_out, 1)}

      total(model, :pending) >= model.bounds.max_pending ->
        {[], count(model, name, :dropped, 1)}

      true ->
        model = count(model, name, :pending, 1)
        model = %{model | batches: Map.update(model.batches, name, [n], &(&1 ++ [n]))}

        if length(model.batches[name]) < model.bounds.batch_size,
          do: {[], model},
          else: flush(model, name)
    end
  end

  def flush(model, name) do
    case Map.get(model.batches, name, []) do
      [] ->
        {[], model}

      batch ->
        n = length(batch)
        model = model |> count(name, :pending, -n) |> count(name, :emitted, n)
        {[{[:batched | name], batch}], %{model | batches: Map.delete(model.batches, name)}}
    end
  end

  def configure(model, name, strategy),
    do: {[], %{model | strategies: Map.put(model.strategies, name, strategy)}}

  def stats(model) do
    totals = Map.new(@outcomes, &{&1, total(model, &1)})
    offered = totals |> Map.values() |> Enum.sum()

    Map.merge(totals, %{offered: offered, windows: length(model.windows), evicted: model.evicted})
  end

  # Windows in the order in which they were opened.
  defp open(model, window) do
    case model.windows ++ [window] do
      windows when length(windows) > model.bounds.max_windows ->
        %{model | windows: tl(windows), evicted: model.evicted + 1}

      windows ->
        %{model | windows: windows}
    end
  end

  defp count(model, name, outcome, n),
    do: %{model | counts: Map.update(model.counts, {name, outcome}, n, &(&1 + n))}

  defp total(model, outcome),
    do: for({{_name, ^outcome}, n} <- model.counts, reduce: 0, do: (sum -> sum + n))
end
