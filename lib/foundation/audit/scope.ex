defmodule Foundation.Audit.Scope do
  @moduledoc false
  # The lexical scope at a point of the source: which module it is in, what each alias means, and
  # what is imported. It follows the compiler's rules (`Macro.Env`, `elixir_aliases`,
  # `elixir_import`), with strings in place of atoms. A name that cannot be known from the source
  # (`unquote(module)`) is `nil`, which matches nothing.

  alias Foundation.Audit.Calls

  # Kernel is imported into every module.
  defstruct module: nil, aliases: %{}, imports: %{"Elixir.Kernel" => :all}

  @type name :: String.t() | nil
  @type selector :: :all | {:only, [{String.t(), arity}]} | {:except, [{String.t(), arity}]}
  @type t :: %__MODULE__{
          module: name,
          aliases: %{String.t() => name},
          imports: %{String.t() => selector}
        }

  @doc "The full name of the module that an expression names, `nil` if it names none for certain."
  @spec resolve(t, Macro.t()) :: name
  def resolve(scope, {:__aliases__, _, [head | rest]}) do
    if Enum.all?(rest, &is_binary/1), do: join(head(scope, head), rest)
  end

  def resolve(scope, {"__MODULE__", _, context}) when not is_list(context), do: scope.module
  def resolve(scope, {"unquote", _, [expression]}), do: resolve(scope, expression)
  def resolve(scope, {:__block__, _, [expression]}), do: resolve(scope, expression)
  def resolve(_scope, erlang) when is_binary(erlang), do: erlang
  def resolve(_scope, _other), do: nil

  # `Elixir.A.B` is absolute: no alias applies to it.
  defp head(_scope, "Elixir"), do: "Elixir"
  defp head(scope, head) when is_binary(head), do: Map.get(scope.aliases, head, "Elixir." <> head)
  defp head(scope, expression), do: resolve(scope, expression)

  defp join(nil, _segments), do: nil
  defp join(head, segments), do: Enum.join([head | segments], ".")

  @doc "The scope inside `defmodule`, and the scope after it."
  @spec enter_module(t, Macro.t()) :: {inside :: t, later :: t}
  def enter_module(%{module: nil} = scope, name) do
    {%{scope | module: resolve(scope, name)}, scope}
  end

  # A module inside another is named below it, and its first segment becomes an alias there.
  def enter_module(outer, {:__aliases__, _, [first | rest]})
      when is_binary(first) and first != "Elixir" do
    nested = outer.module <> "." <> first
    later = put_alias(outer, first, nested)
    {%{later | module: join(nested, Enum.filter(rest, &is_binary/1))}, later}
  end

  def enter_module(outer, name), do: {%{outer | module: resolve(outer, name) || "?"}, outer}

  @doc "The scope inside `defimpl`, whose module no source names by an alias."
  @spec enter_implementation(t) :: t
  def enter_implementation(scope), do: %{scope | module: "?"}

  @doc "The scope after `alias` with these arguments."
  @spec alias(t, [Macro.t()]) :: t
  def alias(scope, [{{:., _, [base, :{}]}, _, names} | _]) do
    base = resolve(scope, base)

    Enum.reduce(names, scope, fn
      {:__aliases__, _, segments}, scope ->
        put_alias(scope, List.last(segments), join(base, segments))

      _other, scope ->
        scope
    end)
  end

  def alias(scope, [target | options]) do
    module = resolve(scope, target)

    case as(options) || last_segment(target) || last_segment(module) do
      nil -> scope
      name -> put_alias(scope, name, module)
    end
  end

  def alias(scope, _), do: scope

  @doc "The scope after `require` with these arguments: an alias if it says `:as`."
  @spec require(t, [Macro.t()]) :: t
  def require(scope, [target | options]) do
    case as(options) do
      nil -> scope
      name -> put_alias(scope, name, resolve(scope, target))
    end
  end

  def require(scope, _), do: scope

  defp as([options]) when is_list(options) do
    case List.keyfind(options, "as", 0) do
      {"as", {:__aliases__, _, [name]}} when is_binary(name) -> name
      _ -> nil
    end
  end

  defp as(_), do: nil

  defp last_segment({:__aliases__, _, segments}), do: List.last(segments)
  # `alias __MODULE__` names the module by its own last segment.
  defp last_segment("Elixir." <> name), do: name |> String.split(".") |> List.last()
  defp last_segment(_), do: nil

  defp put_alias(scope, name, target) when is_binary(name) do
    %{scope | aliases: Map.put(scope.aliases, name, target)}
  end

  defp put_alias(scope, _name, _target), do: scope

  @doc "The scope after `import` with these arguments."
  @spec import(t, [Macro.t()]) :: t
  def import(scope, [{{:., _, [base, :{}]}, _, names} | options]) do
    base = resolve(scope, base)

    Enum.reduce(names, scope, fn
      {:__aliases__, _, segments}, scope -> put_import(scope, join(base, segments), options)
      _other, scope -> scope
    end)
  end

  def import(scope, [target | options]), do: put_import(scope, resolve(scope, target), options)
  def import(scope, _), do: scope

  defp put_import(scope, nil, _options), do: scope

  defp put_import(scope, module, options) do
    selector = selector(options, Map.get(scope.imports, module))
    %{scope | imports: Map.put(scope.imports, module, selector)}
  end

  defp selector([options], earlier) when is_list(options) do
    case {List.keyfind(options, "only", 0), List.keyfind(options, "except", 0)} do
      {{_, list}, _} when is_list(list) -> {:only, list}
      {{_, kind}, _} when kind in ["macros", "sigils"] -> {:only, []}
      {_, {_, list}} when is_list(list) -> except(earlier, list)
      _ -> :all
    end
  end

  defp selector(_options, _earlier), do: :all

  # `except:` after `only:` of the same module narrows what was imported.
  defp except({:only, only}, list), do: {:only, only -- list}
  defp except(_, list), do: {:except, list}

  @doc "The module that a call without a module goes to, if it is one that matters here."
  @spec imported(t, term, arity) :: name
  def imported(scope, function, arity) when is_binary(function) do
    Enum.find_value(scope.imports, fn {module, selector} ->
      if Calls.exports?(module, function, arity) and selects?(selector, {function, arity}) do
        module
      end
    end)
  end

  def imported(_scope, _function, _arity), do: nil

  defp selects?(:all, _function), do: true
  defp selects?({:only, list}, function), do: function in list
  defp selects?({:except, list}, function), do: function not in list
end
