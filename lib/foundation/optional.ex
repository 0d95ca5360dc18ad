defmodule Foundation.Optional do
  @moduledoc false
  # The error of modules that need an optional package.

  # The name of this library as a dependency.
  @package "foundation"

  @doc "Defines functions that raise `missing!/3`, for a module that was compiled without a package."
  defmacro stubs(functions, package, requirement) do
    for {name, arity} <- functions do
      arguments = Macro.generate_arguments(arity, __MODULE__)
      types = List.duplicate(quote(do: term), arity)

      quote do
        @doc false
        @spec unquote(name)(unquote_splicing(types)) :: no_return
        def unquote(name)(unquote_splicing(arguments)) do
          _ = unquote(arguments)
          Foundation.Optional.missing!(__MODULE__, unquote(package), unquote(requirement))
        end
      end
    end
  end

  @doc """
  Raises for a function of `module` that was compiled without a package. A package that was added
  later is not seen until this library is compiled again.
  """
  @spec missing!(module, String.t(), String.t()) :: no_return
  def missing!(module, package, requirement) do
    raise "#{inspect(module)} needs the package :#{package}, which was not there when " <>
            "Foundation was compiled: add {:#{package}, \"#{requirement}\"} to the dependencies " <>
            "in mix.exs, then run mix deps.compile #{@package} --force"
  end

  @doc "Raises for a function that calls a package which is not there."
  @spec absent!(String.t(), String.t(), String.t()) :: no_return
  def absent!(what, package, requirement) do
    raise "#{what} needs the package :#{package}, which is not there: " <>
            "add {:#{package}, \"#{requirement}\"} to the dependencies in mix.exs"
  end
end
