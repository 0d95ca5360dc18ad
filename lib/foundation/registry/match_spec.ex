defmodule Foundation.Registry.MatchSpec do
  @moduledoc false
  # Runs `match`, `select` and similar functions over any engine. Entries arrive in chunks, and
  # OTP's match specification engine runs over each chunk in the caller.
  #
  # A row has the shape of Elixir's Registry, `{key, {pid, value}}`. If a specification binds the
  # key, the key is looked up, which costs the entries of the key instead of those of the table. The
  # key is then compared by `===`, where a map in a pattern would match each map with further keys
  # too.

  @type guards :: [term]

  # The variables that specifications have for the key, the process and the value.
  @variables [:"$1", :"$2", :"$3"]

  defguardp is_open(part) when part == :_ or part in @variables
  defguardp differ(one, other) when one == :_ or one != other

  @doc "The `{pid, value}` pairs under `key` whose value matches."
  @spec match(module, atom, term, term, guards) :: [{pid, term}]
  def match(backend, name, key, pattern, guards) do
    if layout?(guards) do
      spec = [{value_head(pattern), guards, [{:element, 2, :"$_"}]}]
      results([{key_rows(backend, name, key), compiled(spec)}])
    else
      results([{backend.key_chunks(name, key), runner({:_, pattern}, guards, [:"$_"])}])
    end
  end

  @doc "How many `match/5` gives."
  @spec count_match(module, atom, term, term, guards) :: non_neg_integer
  def count_match(backend, name, key, pattern, guards),
    do: count(over_key(backend, name, key, {:_, pattern}, guards, [true]))

  @doc "Of the caller's `[{id, value}]` under `key` the ids whose value matches."
  @spec matching_ids([{term, term}], term, term, guards) :: [term]
  def matching_ids(entries, _key, pattern, []) when is_open(pattern),
    do: for({id, _value} <- entries, do: id)

  def matching_ids(entries, key, pattern, guards) do
    # With the id in the row, guards on the whole entry would see other terms than in match/5.
    {head, rows} =
      if layout?(guards) do
        me = self()
        {value_head(pattern), for({_id, value} <- entries, do: {key, {me, value}})}
      else
        {{:_, pattern}, entries}
      end

    # Returns one result per entry.
    answers = compiled([{head, guards, [true]}, {:_, [], [false]}]).(rows)
    for {{id, _value}, true} <- Enum.zip(entries, answers), do: id
  end

  defp value_head(pattern), do: {:_, {:_, pattern}}

  @doc "What `spec` makes of all entries. `function` names the caller in an error."
  @spec select(module, atom, [term], String.t()) :: [term]
  def select(backend, name, spec, function),
    do: results(plan(backend, name, heads!(spec, function)))

  # Most keys have one chunk, whose results are returned as they are.
  defp results([{[chunk], run}]), do: run.(chunk)

  defp results(plan) do
    for {chunks, run} <- plan, chunk <- chunks, result <- run.(chunk), do: result
  end

  @doc "For how many entries `spec` says `true`."
  @spec count_select(module, atom, [term], String.t()) :: non_neg_integer
  def count_select(backend, name, spec, function) do
    for part <- plan(backend, name, heads!(spec, function)), reduce: 0 do
      sum -> sum + count(part)
    end
  end

  defp heads!(spec, function) do
    for part <- spec do
      case part do
        {{key, pid, value}, guards, body} ->
          {{key, {pid, value}}, guards, body}

        _malformed ->
          raise ArgumentError,
                "invalid match specification in Foundation.Registry.#{function}: #{inspect(spec)}"
      end
    end
  end

  # Returns which chunks to run and with what: those of the bound keys, or the whole table. A
  # specification without parts selects nothing; OTP refuses to compile one.
  defp plan(_backend, _name, []), do: []

  # Most specifications have one part, and do not show how an entry is laid out. That part runs over
  # the entries as the engine returns them, and is compiled once.
  defp plan(backend, name, [{{key, {pid, value} = pair}, guards, body}] = spec) do
    cond do
      bound?(key) -> [over_key(backend, name, key, pair, guards, body)]
      layout?([guards, body]) -> [{table_rows(backend, name), compiled(spec)}]
      true -> [{backend.chunks(name), runner({key, pid, value}, guards, body)}]
    end
  end

  defp plan(backend, name, spec) do
    # Compile it as a whole first, so that an invalid specification raises.
    run = compiled(spec)

    if Enum.all?(spec, fn {{key, _entry}, _guards, _body} -> bound?(key) end) do
      for {key, parts} <- by_key(spec), do: {key_rows(backend, name, key), compiled(parts)}
    else
      [{table_rows(backend, name), run}]
    end
  end

  defp over_key(backend, name, key, pair, guards, body) do
    if layout?([guards, body]),
      do: {key_rows(backend, name, key), compiled([{{:_, pair}, guards, body}])},
      else: {backend.key_chunks(name, key), runner(pair, guards, body)}
  end

  defp by_key(spec) do
    keys = Enum.uniq(for {{key, _entry}, _guards, _body} <- spec, do: key)

    for key <- keys do
      {key, for({{^key, entry}, guards, body} <- spec, do: {{:_, entry}, guards, body})}
    end
  end

  defp count({chunks, run}) do
    for chunk <- chunks, true <- run.(chunk), reduce: 0 do
      sum -> sum + 1
    end
  end

  # Returns a function that takes a chunk of entries and returns what the specification selects.
  #
  # Many specifications match every entry and select parts of it. These parts are read from the
  # entry, which takes less time than compiling the specification and copying each result.
  defp runner(head, guards, body),
    do: parts(head, guards, body) || compiled([{head, guards, body}])

  defp parts({one, two} = head, [], [result])
       when is_open(one) and is_open(two) and differ(one, two),
       do: part(head, result)

  defp parts({one, two, three} = head, [], [result])
       when is_open(one) and is_open(two) and is_open(three) and differ(one, two) and
              differ(one, three) and differ(two, three),
       do: part(head, result)

  defp parts(_head, _guards, _body), do: nil

  # Only `match/5` passes this variable.
  defp part(_head, :"$_"), do: & &1
  defp part(_head, true), do: &Enum.map(&1, fn _entry -> true end)
  defp part({one, two} = head, {head}) when one != :_ and two != :_, do: & &1

  defp part({one, two, three} = head, {head}) when one != :_ and two != :_ and three != :_,
    do: & &1

  defp part(head, {{one, two}}) when one in @variables and two in @variables do
    case {position(head, one), position(head, two)} do
      {nil, _second} -> nil
      {_first, nil} -> nil
      {first, second} -> &for(entry <- &1, do: {elem(entry, first), elem(entry, second)})
    end
  end

  defp part(head, variable) when variable in @variables do
    if at = position(head, variable), do: &for(entry <- &1, do: elem(entry, at))
  end

  defp part(_head, _result), do: nil

  defp position(head, variable) do
    cond do
      elem(head, 0) == variable -> 0
      elem(head, 1) == variable -> 1
      tuple_size(head) == 3 and elem(head, 2) == variable -> 2
      true -> nil
    end
  end

  defp compiled(spec) do
    compiled = compile(spec)
    &:ets.match_spec_run(&1, compiled)
  end

  # Elixir's Registry passes a specification to :ets.select/2 and similar functions as their second
  # argument, and the error message says so.
  defp compile(spec) do
    :ets.match_spec_compile(spec)
  rescue
    error in ArgumentError ->
      message = String.replace(error.message, "1st argument", "2nd argument")
      reraise ArgumentError, [message: message], __STACKTRACE__
  end

  defp key_rows(backend, name, key) do
    for_chunks(backend.key_chunks(name, key), fn {pid, value} -> {key, {pid, value}} end)
  end

  defp table_rows(backend, name) do
    for_chunks(backend.chunks(name), fn {key, pid, value} -> {key, {pid, value}} end)
  end

  defp for_chunks([chunk], fun), do: [Enum.map(chunk, fun)]
  defp for_chunks(chunks, fun), do: Stream.map(chunks, &Enum.map(&1, fun))

  # Whether an expression contains the variables for the whole entry.
  defp layout?(atom) when is_atom(atom), do: atom in [:"$_", :"$$"]
  defp layout?([head | tail]), do: layout?(head) or layout?(tail)
  defp layout?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> layout?()
  defp layout?(map) when is_map(map), do: map |> :maps.to_list() |> layout?()
  defp layout?(_other), do: false

  @doc "Returns whether `term`, as the key in a pattern, means itself: no atom in it is a variable."
  @spec bound?(term) :: boolean
  def bound?(atom) when is_atom(atom), do: not variable?(atom)
  def bound?([head | tail]), do: bound?(head) and bound?(tail)
  def bound?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> bound?()
  def bound?(map) when is_map(map), do: map |> :maps.to_list() |> bound?()
  def bound?(_other), do: true

  @doc "Whether a match specification may take `atom` for something else than itself."
  @spec variable?(atom) :: boolean
  def variable?(:_), do: true
  def variable?(atom), do: match?("$" <> _, Atom.to_string(atom))
end
