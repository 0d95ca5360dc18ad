defmodule Foundation.Resilience.Budget do
  @moduledoc false
  # The retry budget that all callers of one name share. Each run earns a share of a retry.
  #
  # One atomic for each name, in millionths of a retry. Names are atoms, so their number is bounded.

  @table __MODULE__
  @retry 1_000_000
  # The largest balance: 1,000 retries.
  @most 1_000 * @retry

  @doc "Makes the table, for the process that lives as long as the application."
  @spec open_table() :: :ok
  def open_table do
    :ets.new(@table, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @doc "Earns `ratio` of a retry."
  @spec earn(atom, number) :: :ok
  def earn(name, ratio) do
    balance = balance(name)
    earned = round(ratio * @retry)
    if :atomics.get(balance, 1) + earned <= @most, do: :atomics.add(balance, 1, earned)
    :ok
  end

  @doc "Spends a retry, and returns whether there was one."
  @spec spend(atom) :: boolean
  def spend(name) do
    balance = balance(name)

    if :atomics.sub_get(balance, 1, @retry) >= 0 do
      true
    else
      :atomics.add(balance, 1, @retry)
      false
    end
  end

  defp balance(name) do
    case :ets.lookup(@table, name) do
      [{_name, balance}] ->
        balance

      [] ->
        :ets.insert_new(@table, {name, :atomics.new(1, [])})
        balance(name)
    end
  end
end
