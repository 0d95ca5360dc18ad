defmodule Foundation.Options do
  @moduledoc false
  # Options as a schema: what checks them, fills in defaults and documents them is one list.
  #
  #     [engine: [type: {:in, [:auto, :native, :ets]}, default: :auto, doc: "Which …"]]
  #
  # A key whose `:type` is a keyword list is a section with a schema of its own. `time/1` is the
  # type of a number of milliseconds.

  @type type ::
          :boolean
          | :keyword
          | :string
          | :atom
          | :mfa
          | :any
          | {:in, [term]}
          | {:integer, Range.t()}
          | {:list_of, type}
          | {:keyword_of, type}
          | {:or, [type]}
          | {:number, :above | :from, number, number}
          | {:from, integer}
          | {:fun, arity}
          | {:pair, type, type}
          | schema
  @type schema :: [{atom, [type: type, default: term, required: boolean, doc: String.t()]}]

  # The longest time that every timer and `receive` of the VM takes, 49.7 days.
  @longest 0xFFFF_FFFF

  @doc """
  Returns the type of a time in milliseconds, from `least` on, or `:infinity`.
  """
  @spec time(non_neg_integer) :: type
  def time(least), do: {:or, [{:integer, least..@longest}, {:in, [:infinity]}]}

  @doc """
  Returns `value` if it is of its type. Raises as `validate!/3` does, with `place` for the message.
  """
  @spec value!(term, type, String.t()) :: term
  def value!(value, type, place) do
    if valid?(value, type), do: value, else: refuse!(value, type, place)
  end

  @doc """
  Returns `options` with the schema's defaults filled in.

  Raises `ArgumentError` at the first that is unknown or not of its type. `place` says
  where the options stand, for the message.
  """
  @spec validate!(term, schema, String.t()) :: keyword
  def validate!(options, schema, place) do
    unless Keyword.keyword?(options) do
      raise ArgumentError, "expected #{place} to be a keyword list, got: #{inspect(options)}"
    end

    for {key, _value} <- options, not Keyword.has_key?(schema, key) do
      raise ArgumentError, unknown(key, schema, place)
    end

    for {key, spec} <- schema, spec[:required], not Keyword.has_key?(options, key) do
      raise ArgumentError, "expected #{inspect(key)} of #{place} to be given"
    end

    for {key, spec} <- schema do
      {key, fetch!(options, key, spec, place)}
    end
  end

  @doc """
  Says that `key` is none of the schema's, with the one that was probably meant.
  """
  @spec unknown(atom, keyword, String.t()) :: String.t()
  def unknown(key, schema, place) do
    known = Keyword.keys(schema)

    "expected a key of #{place} to be one of #{inspect(known)}, got: #{inspect(key)}" <>
      suggestion(key, known)
  end

  @doc """
  Returns the value of `key` in `options`, or its default; raises as `validate!/3` does.
  """
  @spec fetch!(keyword, atom, keyword, String.t()) :: term
  def fetch!(options, key, spec, place) do
    case {spec[:type], Keyword.get(options, key, spec[:default])} do
      {[_ | _] = section, value} ->
        validate!(value || [], section, "#{inspect(key)} of #{place}")

      {type, value} ->
        if (value === spec[:default] and not (spec[:required] || false)) or valid?(value, type),
          do: value,
          else: refuse!(value, type, "#{inspect(key)} of #{place}")
    end
  end

  @spec refuse!(term, type, String.t()) :: no_return
  defp refuse!(value, type, place) do
    raise ArgumentError,
          "expected #{place} to be #{describe(type)}, got: #{inspect(value)}" <>
            suggestion(value, choices(type))
  end

  @doc """
  The schema as a Markdown list.
  """
  @spec docs(schema) :: String.t()
  def docs(schema), do: docs(schema, "")

  defp docs(schema, indent) do
    Enum.map_join(schema, "\n", fn {key, spec} ->
      "#{indent}* `#{inspect(key)}`#{type_docs(spec)} - #{flow(spec[:doc], indent)}" <>
        section_docs(spec[:type], indent)
    end)
  end

  defp type_docs(spec) do
    case spec[:type] do
      [_ | _] -> ""
      type -> if spec[:required], do: " (#{describe(type)}, required)", else: optional(type, spec)
    end
  end

  defp optional(type, spec), do: " (#{describe(type)}, default `#{inspect(spec[:default])}`)"

  defp section_docs([_ | _] = section, indent), do: "\n\n" <> docs(section, indent <> "  ")
  defp section_docs(_type, _indent), do: ""

  defp flow(doc, indent), do: doc |> String.trim() |> String.replace("\n", "\n#{indent}  ")

  defp valid?(value, :boolean), do: is_boolean(value)
  defp valid?(value, :keyword), do: Keyword.keyword?(value)
  defp valid?(value, :string), do: is_binary(value) and String.valid?(value)
  defp valid?(value, :atom), do: is_atom(value) and not is_boolean(value) and value != nil
  defp valid?({m, f, a}, :mfa), do: is_atom(m) and is_atom(f) and is_list(a)
  defp valid?(_value, :mfa), do: false
  defp valid?(_value, :any), do: true
  defp valid?(value, {:in, choices}), do: value in choices
  defp valid?(value, {:integer, range}), do: is_integer(value) and value in range
  defp valid?(value, {:from, least}), do: is_integer(value) and value >= least
  defp valid?(value, {:fun, arity}), do: is_function(value, arity)

  defp valid?(value, {:number, :above, low, high}),
    do: is_number(value) and value > low and value <= high

  defp valid?(value, {:number, :from, low, high}),
    do: is_number(value) and value >= low and value <= high

  defp valid?({first, second}, {:pair, one, other}),
    do: valid?(first, one) and valid?(second, other)

  defp valid?(_value, {:pair, _one, _other}), do: false
  defp valid?(value, {:or, types}), do: Enum.any?(types, &valid?(value, &1))

  defp valid?(value, {:list_of, type}) do
    is_list(value) and not List.improper?(value) and Enum.all?(value, &valid?(&1, type))
  end

  defp valid?(value, {:keyword_of, type}) do
    Keyword.keyword?(value) and Enum.all?(value, fn {_key, value} -> valid?(value, type) end)
  end

  defp describe(:boolean), do: "true or false"
  defp describe(:keyword), do: "a keyword list"
  defp describe(:string), do: "a string"
  defp describe(:atom), do: "an atom"
  defp describe(:mfa), do: "{module, function, arguments}"
  defp describe(:any), do: "any term"
  defp describe({:in, choices}), do: choices |> Enum.map(&inspect/1) |> either()
  defp describe({:integer, first..last//_}), do: "an integer from #{first} to #{last}"
  defp describe({:list_of, type}), do: "a list, each of it #{describe(type)}"
  defp describe({:keyword_of, type}), do: "a keyword list, each value #{describe(type)}"
  defp describe({:from, least}), do: "an integer from #{least} on"
  defp describe({:fun, arity}), do: "a function of arity #{arity}"
  defp describe({:number, :above, low, high}), do: "a number above #{low} and up to #{high}"
  defp describe({:number, :from, low, high}), do: "a number from #{low} to #{high}"

  defp describe({:pair, {:in, [tag]}, type}),
    do: "{#{inspect(tag)}, n} with n #{describe(type)}"

  defp describe({:pair, one, other}),
    do: "a pair of #{describe(one)} and #{describe(other)}"

  defp describe({:or, types}), do: types |> Enum.map(&describe/1) |> either()

  defp either([only]), do: only

  defp either(words) do
    {init, [last]} = Enum.split(words, -1)
    Enum.join(init, ", ") <> " or " <> last
  end

  defp choices({:in, choices}), do: choices
  defp choices({:or, types}), do: Enum.flat_map(types, &choices/1)
  defp choices(_type), do: []

  @doc """
  Returns `", did you mean …?"` for the atom of `known` that is most like `given`, or `""`.
  """
  @spec suggestion(term, [term]) :: String.t()
  def suggestion(given, known) when is_atom(given) do
    known
    |> Enum.filter(&is_atom/1)
    |> Enum.map(&{String.jaro_distance(Atom.to_string(given), Atom.to_string(&1)), &1})
    |> Enum.max(fn -> {0.0, nil} end)
    |> case do
      {distance, near} when distance > 0.77 -> ", did you mean #{inspect(near)}?"
      _far -> ""
    end
  end

  def suggestion(_given, _known), do: ""
end
