defmodule Foundation.Audit.Walker do
  @moduledoc false
  # Walks the syntax tree of one file and collects the calls that use the process dictionary.
  #
  # A directive (`alias`, `import`, `require`, a nested `defmodule`) holds for the rest of the
  # block it stands in. So only a block passes its scope from one expression to the next. Every
  # other node passes its own scope to its children and drops their changes.

  alias Foundation.Audit.{Calls, Scope}

  @definitions ~w(def defp defmacro defmacrop defguard defguardp)
  # Types may be called `get` and `put`; a specification calls nothing.
  @typespecs ~w(spec type typep opaque callback macrocallback)

  @type call :: {line :: pos_integer, call :: String.t(), function :: String.t()}

  @doc "The calls found in a tree whose names are strings, in the order of their lines."
  @spec calls(Macro.t()) :: [call]
  def calls(tree) do
    {_scope, found} = walk(tree, %Scope{}, [])
    found |> Enum.reverse() |> Enum.sort_by(&elem(&1, 0))
  end

  defp walk({:__block__, _, expressions}, scope, found) do
    Enum.reduce(expressions, {scope, found}, fn expression, {scope, found} ->
      walk(expression, scope, found)
    end)
  end

  defp walk({directive, _, arguments}, scope, found)
       when directive in ["alias", "import", "require"] and is_list(arguments) do
    found = each(arguments, scope, found)

    case directive do
      "alias" -> {Scope.alias(scope, arguments), found}
      "import" -> {Scope.import(scope, arguments), found}
      "require" -> {Scope.require(scope, arguments), found}
    end
  end

  defp walk({kind, _, [name | rest]}, scope, found) when kind in ["defmodule", "defprotocol"] do
    {inside, later} = Scope.enter_module(scope, name)
    {later, each(rest, inside, found)}
  end

  defp walk({"defimpl", _, [protocol | rest]}, scope, found) do
    {scope, each(rest, Scope.enter_implementation(scope), each([protocol], scope, found))}
  end

  defp walk({kind, _, [head | rest]}, scope, found) when kind in @definitions do
    {scope, each(rest, scope, head(head, scope, found))}
  end

  defp walk({"defdelegate", meta, [head, options]}, scope, found) when is_list(options) do
    found = delegate(head, options, meta, scope, found)
    {scope, each([options], scope, head(head, scope, found))}
  end

  defp walk({:@, _, [{name, _, arguments}]}, scope, found) when is_list(arguments) do
    {scope, if(name in @typespecs, do: found, else: each(arguments, scope, found))}
  end

  # `value |> call(rest)` is `call(value, rest)`, on the line of the call.
  defp walk({:|>, _, [value, call]}, scope, found) do
    {scope, call(call, [value], scope, each([value], scope, found))}
  end

  defp walk({:&, _, [{:/, _, [function, arity]}]}, scope, found) when is_integer(arity) do
    {scope, captured(function, arity, scope, found)}
  end

  defp walk({_, meta, _} = node, scope, found) when is_list(meta) do
    {scope, call(node, [], scope, found)}
  end

  defp walk({left, right}, scope, found), do: {scope, each([left, right], scope, found)}
  defp walk(list, scope, found) when is_list(list), do: {scope, each(list, scope, found)}
  defp walk(_literal, scope, found), do: {scope, found}

  defp each(nodes, scope, found) do
    Enum.reduce(nodes, found, fn node, found ->
      {_scope, found} = walk(node, scope, found)
      found
    end)
  end

  # The head of a definition looks like a call of what it defines.
  defp head({:when, _, [head | guards]}, scope, found) do
    each(guards, scope, head(head, scope, found))
  end

  defp head({name, _, arguments}, scope, found) when is_binary(name) and is_list(arguments) do
    each(arguments, scope, found)
  end

  defp head(other, scope, found), do: each([other], scope, found)

  defp delegate({name, _, arguments}, options, meta, scope, found) do
    with {_, target} <- List.keyfind(options, "to", 0),
         module = Scope.resolve(scope, target),
         {_, function} <- List.keyfind(options, "as", 0, {"as", name}),
         true <- Calls.dictionary?(module, function) do
      [found(meta, module, function, arity(arguments)) | found]
    else
      _ -> found
    end
  end

  defp delegate(_head, _options, _meta, _scope, found), do: found

  # With a module.
  defp call({{:., _, [target, function]}, meta, arguments}, piped, scope, found)
       when is_list(arguments) do
    found = named(Scope.resolve(scope, target), function, meta, piped ++ arguments, scope, found)
    each([target | arguments], scope, found)
  end

  # Without one. A variable has no argument list; a pipe into a bare name is a call of it.
  defp call({function, meta, arguments}, piped, scope, found)
       when is_binary(function) and (is_list(arguments) or piped != []) do
    own = if is_list(arguments), do: arguments, else: []
    all = piped ++ own
    found = named(Scope.imported(scope, function, length(all)), function, meta, all, scope, found)
    each(own, scope, found)
  end

  defp call({function, _, arguments}, [], scope, found) when is_list(arguments) do
    each([function | arguments], scope, found)
  end

  defp call({_variable, _, _}, [], _scope, found), do: found
  defp call(other, _piped, scope, found), do: each([other], scope, found)

  defp named(module, function, meta, arguments, scope, found) do
    cond do
      Calls.dictionary?(module, function) ->
        [found(meta, module, function, length(arguments)) | found]

      kind = Calls.indirect(module, function) ->
        indirect(kind, arguments, meta, scope, found)

      Calls.applies?(module, function) ->
        applied(arguments, meta, scope, found)

      true ->
        found
    end
  end

  # `Process, :put, [:a, 1]` somewhere among the arguments.
  defp applied([target, function, third | rest], meta, scope, found) do
    module = Scope.resolve(scope, target)
    name = literal(function)

    if Calls.dictionary?(module, name),
      do: [found(meta, module, name, arity(third)) | found],
      else: applied([function, third | rest], meta, scope, found)
  end

  defp applied(_arguments, _meta, _scope, found), do: found

  defp indirect(kind, [target, function, third], meta, scope, found) do
    module = Scope.resolve(scope, target)
    function = literal(function)

    if Calls.dictionary?(module, function) do
      arity = if kind == :apply, do: arity(third), else: if(is_integer(third), do: third)
      [found(meta, module, function, arity) | found]
    else
      found
    end
  end

  defp indirect(_kind, _arguments, _meta, _scope, found), do: found

  defp captured({{:., _, [target, function]}, meta, []}, arity, scope, found) do
    module = Scope.resolve(scope, target)

    if Calls.dictionary?(module, function) do
      [found(meta, module, function, arity) | found]
    else
      each([target], scope, found)
    end
  end

  defp captured({function, meta, context}, arity, scope, found) when not is_list(context) do
    module = Scope.imported(scope, function, arity)

    if Calls.dictionary?(module, function) do
      [found(meta, module, function, arity) | found]
    else
      found
    end
  end

  defp captured(other, _arity, scope, found), do: each([other], scope, found)

  defp literal({"unquote", _, [expression]}), do: literal(expression)
  defp literal(name), do: name

  # The length of a literal argument list; `[a | rest]` has none that can be read off.
  defp arity(arguments) when is_list(arguments) do
    unless Enum.any?(arguments, &match?({:|, _, _}, &1)), do: length(arguments)
  end

  defp arity(nil), do: 0
  defp arity(_expression), do: nil

  defp found(meta, module, function, arity) do
    {Keyword.get(meta, :line, 1), Calls.format(module, function, arity), function}
  end
end
