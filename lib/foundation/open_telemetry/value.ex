defmodule Foundation.OpenTelemetry.Value do
  @moduledoc false
  # Terms as OpenTelemetry takes them. None of them makes this raise.

  alias Foundation.ErrorContext.Text

  @doc "A name: an atom or a string that is not empty. Jido's are lists of atoms."
  @spec name(term) :: atom | String.t()
  def name(name) when is_atom(name) and name not in [nil, :undefined], do: name
  def name(<<_, _::binary>> = name), do: text(name)
  def name([_ | _] = name), do: if(atoms?(name), do: Enum.join(name, "."), else: text(name))
  def name(name), do: text(name) |> filled()

  # A string of no characters is no name.
  defp filled(""), do: "\"\""
  defp filled(text), do: text

  defp atoms?([head | tail]) when is_atom(head), do: atoms?(tail)
  defp atoms?(rest), do: rest == []

  @doc "Attributes: keys are atoms or strings, values strings, numbers, atoms or lists of one kind."
  @spec attributes(map) :: map
  def attributes(attributes) do
    Map.new(attributes, fn {key, value} -> {name(key), value(value)} end)
  end

  defp value(value) when is_number(value), do: value
  defp value(value) when is_atom(value) and value not in [nil, :undefined], do: value
  defp value([]), do: []

  defp value([first | _] = list) do
    kind = kind(first)
    if kind && all?(list, kind), do: Enum.map(list, &value/1), else: text(list)
  end

  defp value(value), do: text(value)

  defp kind(value) when is_binary(value), do: :string
  defp kind(value) when is_integer(value), do: :integer
  defp kind(value) when is_float(value), do: :float
  defp kind(value) when is_boolean(value), do: :boolean
  defp kind(value) when is_atom(value) and value not in [nil, :undefined], do: :atom
  defp kind(_value), do: nil

  # An improper list is of no kind.
  defp all?([head | tail], kind), do: kind(head) == kind and all?(tail, kind)
  defp all?(rest, _kind), do: rest == []

  @doc "Any term as text, cut."
  @spec text(term) :: String.t()
  def text(term), do: Text.of(term)

  @doc "The type and the message of an exception."
  @spec exception(:error | :exit | :throw, term, list) :: {String.t(), String.t()}
  def exception(:error, reason, stacktrace) do
    exception = Exception.normalize(:error, reason, stacktrace)
    {inspect(exception.__struct__), text(Exception.message(exception))}
  end

  def exception(kind, reason, _stacktrace), do: {Atom.to_string(kind), text(reason)}
end
