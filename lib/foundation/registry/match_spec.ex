defmodule Foundation.Registry.MatchSpec do
  @moduledoc false
  # `match`, `select` and their kin over any engine: entries come in chunks, and OTP's own
  # match specification engine runs over each chunk in the caller.
  #
  # What it runs over has the shape of Elixir's Registry, `{key, {pid, value}}`. A key that
  # a specification binds is looked up, so that the cost is the key's entries', not the
  # table's, and by `===`: in the pattern itself a map would match each map that has more.

  alias Foundation.Registry.Backend

  @type guards :: [term]

  @doc "The `{pid, value}` pairs under `key` whose value matches."
  @spec match(module, atom, term, term, guards) :: [{pid, term}]
  def match(backend, name, key, pattern, guards) do
    compiled = compile([{value_head(pattern), guards, [{:element, 2, :"$_"}]}])
    Enum.flat_map(key_chunks(backend, name, key), &:ets.match_spec_run(&1, compiled))
  end

  @doc "How many `match/5` gives."
  @spec count_match(module, atom, term, term, guards) :: non_neg_integer
  def count_match(backend, name, key, pattern, guards) do
    compiled = compile([{value_head(pattern), guards, [true]}])
    backend |> key_chunks(name, key) |> count(compiled)
  end

  @doc "Of the caller's `[{id, value}]` under `key` the ids whose value matches."
  @spec matching_ids([{term, term}], term, term, guards) :: [term]
  def matching_ids(entries, key, pattern, guards) do
    # One answer for each entry: with the id in what it runs over, guards would see other
    # terms than those of match/5.
    compiled = compile([{value_head(pattern), guards, [true]}, {:_, [], [false]}])
    me = self()
    rows = for {_id, value} <- entries, do: {key, {me, value}}
    answers = :ets.match_spec_run(rows, compiled)
    for {{id, _value}, true} <- Enum.zip(entries, answers), do: id
  end

  defp value_head(pattern), do: {:_, {:_, pattern}}

  @doc "What `spec` makes of all entries. `function` names the caller in an error."
  @spec select(module, atom, [term], String.t()) :: [term]
  def select(backend, name, spec, function) do
    for {chunks, compiled} <- plan(backend, name, heads!(spec, function)),
        chunk <- chunks,
        result <- :ets.match_spec_run(chunk, compiled),
        do: result
  end

  @doc "For how many entries `spec` says `true`."
  @spec count_select(module, atom, [term], String.t()) :: non_neg_integer
  def count_select(backend, name, spec, function) do
    for {chunks, compiled} <- plan(backend, name, heads!(spec, function)), reduce: 0 do
      sum -> sum + count(chunks, compiled)
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

  # Which chunks are to be run over with what: those of the bound keys, or the whole table.
  # No part at all selects nothing; OTP compiles that as little as a wrong one.
  defp plan(_backend, _name, []), do: []

  defp plan(backend, name, spec) do
    # As a whole first, for the error that it may be.
    compiled = compile(spec)

    if Enum.all?(spec, fn {{key, _entry}, _guards, _body} -> bound?(key) end) do
      for {key, parts} <- by_key(spec), do: {key_chunks(backend, name, key), compile(parts)}
    else
      [{chunks(&table_chunk(backend, name, &1)), compiled}]
    end
  end

  defp by_key(spec) do
    keys = Enum.uniq(for {{key, _entry}, _guards, _body} <- spec, do: key)

    for key <- keys do
      {key, for({{^key, entry}, guards, body} <- spec, do: {{:_, entry}, guards, body})}
    end
  end

  defp count(chunks, compiled) do
    for chunk <- chunks, true <- :ets.match_spec_run(chunk, compiled), reduce: 0 do
      sum -> sum + 1
    end
  end

  # Elixir's Registry gives a specification to :ets.select/2 and its kin, as the second
  # argument, and the message says so.
  defp compile(spec) do
    :ets.match_spec_compile(spec)
  rescue
    error in ArgumentError ->
      message = String.replace(error.message, "1st argument", "2nd argument")
      reraise ArgumentError, [message: message], __STACKTRACE__
  end

  defp key_chunks(backend, name, key) do
    chunks(fn cursor ->
      {entries, cursor} = backend.walk_key(name, key, cursor)
      {for({pid, value} <- entries, do: {key, {pid, value}}), cursor}
    end)
  end

  defp table_chunk(backend, name, cursor) do
    {entries, cursor} = backend.walk(name, cursor)
    {for({key, pid, value} <- entries, do: {key, {pid, value}}), cursor}
  end

  @doc """
  The chunks that `next` gives for a cursor, lazily, from the first to the one that says `:done`.
  """
  @spec chunks((Backend.cursor() -> {[term], Backend.cursor() | :done})) :: Enumerable.t()
  def chunks(next) do
    Stream.unfold(0, fn
      :done -> nil
      cursor -> next.(cursor)
    end)
  end

  # Whether `term`, as the key in a pattern, means itself: no atom in it reads as a variable.
  defp bound?(atom) when is_atom(atom), do: not variable?(atom)
  defp bound?([head | tail]), do: bound?(head) and bound?(tail)
  defp bound?(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> bound?()
  defp bound?(map) when is_map(map), do: map |> :maps.to_list() |> bound?()
  defp bound?(_other), do: true

  @doc "Whether a match specification may take `atom` for something else than itself."
  @spec variable?(atom) :: boolean
  def variable?(:_), do: true
  def variable?(atom), do: match?("$" <> _, Atom.to_string(atom))
end
