defmodule Foundation.Conformance.Registry do
  @moduledoc """
  Writes a registry test once and runs it over every subject.

      conformance "Unique", variants: [[keys: :unique], [keys: :unique, partitions: 4]] do
        test "finds what was registered", %{registry: registry} do
          {:ok, _} = Registry.register(registry, "key", :value)
          assert Registry.lookup(registry, "key") == [{self(), :value}]
        end
      end

  This makes one test module for each subject and each variant. In a test, `Registry` is an alias of
  the subject's module, as it is for a user who migrates. The subjects are the standard library's
  `Registry`, and `Foundation.Registry` on each engine. If the standard library fails a test, the
  test is wrong.

  Each test gets a running registry in `%{registry: name}`. `@tag registry: [listeners: …]` adds
  options. `needs :lock` before a test skips it, with a reason, if the running standard library
  lacks the feature. `subjects: :ours` is for guarantees that only Foundation gives.
  """

  @ours [
    %{id: :ets, module: Foundation.Registry, options: [engine: :ets]},
    %{id: :native, module: Foundation.Registry, options: [engine: :native]}
  ]
  @standard %{id: :standard, module: Elixir.Registry, options: []}

  @lacking %{
    lock: "this Elixir's Registry has no lock/3 (1.18)",
    key_partition: "this Elixir's Registry has no {:duplicate, :key} (1.19)",
    current_messages:
      "this Elixir's Registry words this error as it was before {:duplicate, :key}",
    exact_unregister: "this Elixir's Registry takes a map or reserved atom in a key as a pattern"
  }

  @doc "The subjects: `:all`, or `:ours` without the standard library."
  @spec subjects(:all | :ours) :: [map]
  def subjects(:all), do: [@standard | subjects(:ours)]
  def subjects(:ours), do: @ours

  @doc """
  Whether `subject` is the standard library's. A comparison with `@subject` in the test itself would
  make the compiler warn, because it knows the result.
  """
  @spec standard?(map) :: boolean
  def standard?(subject), do: subject.id == :standard

  @doc """
  Returns why `subject` does not have `feature`, or `nil` if it has it.

  The answer depends on the features of the standard library, not on its version. Foundation's
  registry has all of them.
  """
  @spec lacks(map, atom) :: String.t() | nil
  def lacks(%{id: :standard}, feature) do
    if not standard_has?(feature), do: Map.fetch!(@lacking, feature)
  end

  def lacks(_subject, feature) do
    _reason = Map.fetch!(@lacking, feature)
    nil
  end

  defp standard_has?(:lock), do: function_exported?(Elixir.Registry, :lock, 3)

  defp standard_has?(feature) when feature in [:key_partition, :current_messages] do
    Elixir.Registry.start_link(keys: :none, name: :none)
  rescue
    error in ArgumentError -> error.message =~ "{:duplicate, :key}"
  end

  # Only a trial shows whether unregister/2 affects other keys.
  defp standard_has?(:exact_unregister) do
    name = Foundation.Case.unique_name("exact_unregister")

    Task.await(
      Task.async(fn ->
        {:ok, _pid} = Elixir.Registry.start_link(keys: :unique, name: name)
        {:ok, _owner} = Elixir.Registry.register(name, {1, 1}, nil)
        :ok = Elixir.Registry.unregister(name, {:_, 1})
        Elixir.Registry.keys(name, self()) == [{1, 1}]
      end)
    )
  end

  @doc """
  Defines the test modules. See the module's documentation.

  Options: `:subjects` (`:all`), `:variants` (`[[keys: :unique]]`, options of `start_link/1`; a
  variant whose `:needs` is lacking is skipped), `:async` (`true`).
  """
  defmacro conformance(title, options \\ [], do: block) do
    variants = Keyword.get(options, :variants, [[keys: :unique]])
    async = Keyword.get(options, :async, true)
    # The macro needs the variants while it expands, so they must be literals.
    {variants, _binding} = Code.eval_quoted(variants, [], __CALLER__)

    for subject <- subjects(Keyword.get(options, :subjects, :all)), variant <- variants do
      module = module_name(title, subject, variant)

      # Built by hand, because an alias in a quote would be hygienic and the block would not see it.
      alias_subject =
        {:alias, [], [subject.module, [as: {:__aliases__, [], [:Registry]}, warn: false]]}

      quote do
        defmodule unquote(module) do
          use Foundation.Case, async: unquote(async)
          import Foundation.Conformance.Registry, only: [needs: 1, standard?: 1]

          # A test of a missing feature is skipped, but still compiled.
          @compile {:no_warn_undefined, Elixir.Registry}
          @subject unquote(Macro.escape(subject))
          @variant unquote(Macro.escape(variant))

          for feature <- List.wrap(@variant[:needs]),
              reason = Foundation.Conformance.Registry.lacks(@subject, feature),
              do: @moduletag(skip: reason)

          setup context do
            Foundation.Conformance.Registry.start_registry(context, @subject, @variant)
          end

          @doc "Starts another registry of the subject and returns its name."
          def start_registry(options) do
            Foundation.Conformance.Registry.start!(@subject, options)
          end

          unquote(alias_subject)
          unquote(block)
        end
      end
    end
  end

  @doc "Skips the next test if the subject lacks `feature`."
  defmacro needs(feature) do
    quote do
      case Foundation.Conformance.Registry.lacks(@subject, unquote(feature)) do
        nil -> :ok
        reason -> @tag skip: reason
      end
    end
  end

  @doc false
  def start_registry(context, subject, variant) do
    options = Keyword.merge(Keyword.delete(variant, :needs), Map.get(context, :registry, []))
    name = start!(subject, options)
    %{registry: name, subject: subject.id, owner: Process.whereis(name), options: options}
  end

  @doc false
  def start!(subject, options) do
    name = options[:name] || Foundation.Case.unique_name("registry")
    options = Keyword.put(options, :name, name) ++ subject.options
    ExUnit.Callbacks.start_supervised!({subject.module, options}, id: name)
    name
  end

  defp module_name(title, subject, variant) do
    kind =
      case variant[:keys] do
        {:duplicate, by} -> "DuplicateBy#{Macro.camelize(Atom.to_string(by))}"
        kind -> Macro.camelize(Atom.to_string(kind))
      end

    partitions = "Partitions#{variant[:partitions] || 1}"
    subject = Macro.camelize(Atom.to_string(subject.id))

    Module.concat([
      "Foundation.Registry.Conformance",
      title,
      subject,
      kind <> partitions <> "Test"
    ])
  end
end
