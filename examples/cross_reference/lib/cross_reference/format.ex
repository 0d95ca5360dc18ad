defmodule CrossReference.Format do
  @moduledoc false
  # Figures for a person: short, with their unit.

  @doc ~S"""
      iex> CrossReference.Format.integer(1234567)
      "1,234,567"
  """
  @spec integer(integer) :: String.t()
  def integer(n) do
    n
    |> Integer.to_string()
    |> String.replace(~r/\B(?=(\d{3})+$)/, ",")
  end

  @doc ~S"""
      iex> Enum.map([7, 340.4, 2_349, 1_234_567, 45_600_000_000], &CrossReference.Format.duration/1)
      ["7.00 ns", "340 ns", "2.35 µs", "1.23 ms", "45.6 s"]
  """
  @spec duration(number) :: String.t()
  def duration(ns) when ns < 1_000, do: figure(ns) <> " ns"
  def duration(ns) when ns < 1_000_000, do: figure(ns / 1_000) <> " µs"
  def duration(ns) when ns < 1_000_000_000, do: figure(ns / 1_000_000) <> " ms"
  def duration(ns), do: figure(ns / 1_000_000_000) <> " s"

  @doc ~S"""
      iex> Enum.map([12, 412_345, 3_500_000], &CrossReference.Format.bytes/1)
      ["12 B", "412 kB", "3.50 MB"]
  """
  @spec bytes(non_neg_integer) :: String.t()
  def bytes(n) when n < 1_000, do: "#{n} B"
  def bytes(n) when n < 1_000_000, do: figure(n / 1_000) <> " kB"
  def bytes(n), do: figure(n / 1_000_000) <> " MB"

  @doc "Three significant digits, but no digit before the point is lost."
  @spec figure(number) :: String.t()
  def figure(number) when number < 10, do: decimals(number, 2)
  def figure(number) when number < 100, do: decimals(number, 1)
  def figure(number), do: integer(round(number))

  defp decimals(number, n), do: :erlang.float_to_binary(number / 1, decimals: n)
end
