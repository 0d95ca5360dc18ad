defmodule CrossReference.Input do
  @moduledoc false
  # The input: the compiled modules of the Erlang and Elixir installation, and the calls in them.

  defmodule Source do
    @moduledoc false
    @enforce_keys [:module, :application, :path]
    defstruct @enforce_keys

    @type t :: %__MODULE__{module: module, application: String.t(), path: charlist}
  end

  # Applications that all others call come first, so that a small --modules has calls between its
  # modules.
  @first ~w(erts stdlib kernel elixir)

  @type call :: {callee :: module, function :: atom, arity, site :: pos_integer}

  @doc """
  Returns the modules of all applications beside OTP's and Elixir's own, each once.

  Sorted by application and name, with the applications that the others build on
  first; the order is the same in every run.
  """
  @spec sources() :: [Source.t()]
  def sources do
    [:code.lib_dir(), Path.dirname(:code.lib_dir(:elixir))]
    |> Enum.flat_map(&Path.wildcard(Path.join(&1, "*/ebin/*.beam")))
    |> Enum.map(&source/1)
    |> Enum.uniq_by(& &1.module)
    |> Enum.sort_by(&{rank(&1.application), &1.application, &1.module})
  end

  defp source(path) do
    %Source{
      # As many atoms as there are module files: their names are atoms anyway.
      module: path |> Path.basename(".beam") |> String.to_atom(),
      application: path |> Path.dirname() |> Path.dirname() |> application(),
      path: String.to_charlist(path)
    }
  end

  # "stdlib-4.2" is stdlib.
  defp application(directory), do: directory |> Path.basename() |> String.split("-") |> hd()

  defp rank(application), do: Enum.find_index(@first, &(&1 == application)) || length(@first)

  @doc """
  Returns the calls into other modules that a module's compiled code has.

  The imports name the called functions of other modules, and the code shows from how many places.
  An import with ten places is ten calls, numbered from 1.
  """
  @spec calls(Source.t()) :: [call]
  def calls(%Source{module: module, path: path}) do
    {:ok, {^module, imports: imports}} = :beam_lib.chunks(path, [:imports])
    places = places(path)

    for {callee, function, arity} = import <- imports,
        callee != module,
        # An import that only an instruction unknown here refers to is one call.
        site <- 1..Map.get(places, import, 1) do
      {callee, function, arity, site}
    end
  end

  defp places(path) do
    {:beam_file, _module, _exports, _version, _info, functions} = :beam_disasm.file(path)

    for {:function, _name, _arity, _label, instructions} <- functions,
        instruction <- instructions,
        mfa <- called(instruction),
        reduce: %{} do
      places -> Map.update(places, mfa, 1, &(&1 + 1))
    end
  end

  defp called({:call_ext, _arity, {:extfunc, m, f, a}}), do: [{m, f, a}]
  defp called({:call_ext_only, _arity, {:extfunc, m, f, a}}), do: [{m, f, a}]
  defp called({:call_ext_last, _arity, {:extfunc, m, f, a}, _words}), do: [{m, f, a}]
  defp called({:bif, name, _fail, arguments, _to}), do: [{:erlang, name, length(arguments)}]

  defp called({:gc_bif, name, _fail, _live, arguments, _to}),
    do: [{:erlang, name, length(arguments)}]

  defp called(_instruction), do: []
end
