defmodule Foundation.Audit.FormsTest do
  use ExUnit.Case, async: true

  # Every form of a call that the audit finds, and code that only resembles one. The number before a
  # call is its line.

  found = [
    {"a module, a function and arguments in calls that apply them",
     """
     spawn(Process, :put, [:a, 1])
     spawn_link(Process, :put, args)
     spawn_monitor(:erlang, :put, [:a, 1])
     Node.spawn(node, Process, :put, [:a, 1])
     Task.async(Process, :put, [:a, 1])
     Task.start(Process, :get, [])
     Task.async_stream(keys, Process, :get, [])
     Task.Supervisor.start_child(supervisor, Process, :delete, [:a])
     :rpc.call(node, Process, :put, [:a, 1])
     :rpc.multicall([node], Process, :get_keys, [])
     :erpc.call(node, Process, :put, args)
     :timer.apply_after(10, Process, :put, [:a, 1])
     :proc_lib.spawn(Process, :put, [:a, 1])
     Agent.update(agent, Process, :put, [:a])
     node |> :rpc.call(Process, :put, [:a, 1])
     """,
     [
       "1 Process.put/2",
       "2 Process.put",
       "3 :erlang.put/2",
       "4 Process.put/2",
       "5 Process.put/2",
       "6 Process.get/0",
       "7 Process.get/0",
       "8 Process.delete/1",
       "9 Process.put/2",
       "10 Process.get_keys/0",
       "11 Process.put",
       "12 Process.put/2",
       "13 Process.put/2",
       "14 Process.put/1",
       "15 Process.put/2"
     ]},
    {"a call with the module's name", "Process.put(:a, 1)", ["1 Process.put/2"]},
    {"every function of Process",
     """
     Process.put(:a, 1)
     Process.get()
     Process.get(:a)
     Process.get(:a, 1)
     Process.delete(:a)
     Process.get_keys()
     Process.get_keys(1)
     Process.erase(:a)
     """,
     [
       "1 Process.put/2",
       "2 Process.get/0",
       "3 Process.get/1",
       "4 Process.get/2",
       "5 Process.delete/1",
       "6 Process.get_keys/0",
       "7 Process.get_keys/1",
       "8 Process.erase/1"
     ]},
    {"every function of :erlang",
     """
     :erlang.put(:a, 1)
     :erlang.get()
     :erlang.get(:a)
     :erlang.erase()
     :erlang.erase(:a)
     :erlang.get_keys()
     """,
     [
       "1 :erlang.put/2",
       "2 :erlang.get/0",
       "3 :erlang.get/1",
       "4 :erlang.erase/0",
       "5 :erlang.erase/1",
       "6 :erlang.get_keys/0"
     ]},
    {"a call without parentheses", "Process.put :a, 1\nProcess.get_keys",
     ["1 Process.put/2", "2 Process.get_keys/0"]},
    {"the absolute name", "Elixir.Process.put(:a, 1)", ["1 Process.put/2"]},
    {"the name as an atom", ~S|:"Elixir.Process".put(:a, 1)|, ["1 Process.put/2"]},
    {"a quoted function name", ~S|Process."put"(:a, 1)|, ["1 Process.put/2"]},
    {"an alias", "alias Process, as: P\nP.put(:a, 1)", ["2 Process.put/2"]},
    {"an alias of an alias", "alias Process, as: P\nalias P, as: Q\nQ.get(:a)",
     ["3 Process.get/1"]},
    {"an alias of the absolute name", "alias Elixir.Process, as: P\nP.get(:a)",
     ["2 Process.get/1"]},
    {"an alias of an Erlang module", "alias :erlang, as: E\nE.get(:a)", ["2 :erlang.get/1"]},
    {"an alias made by require", "require Process, as: P\nP.get(:a)", ["2 Process.get/1"]},
    {"an alias of several at once", "alias Elixir.{Process, String}\nProcess.get(:a)",
     ["2 Process.get/1"]},
    {"an alias back to the real one", "alias My.Process\nalias Elixir.Process\nProcess.get(:a)",
     ["3 Process.get/1"]},
    {"the absolute name where an alias shadows the short one",
     "alias My.Process\nElixir.Process.get(:a)", ["2 Process.get/1"]},
    {"an alias in the module, a call in a function of a module inside",
     """
     defmodule A do
       alias Process, as: P

       defmodule B do
         def f, do: P.get(:a)
       end
     end
     """, ["5 Process.get/1"]},
    {"an alias inside a function, and not past it",
     """
     defmodule A do
       def f do
         alias Process, as: P
         P.get(:a)
       end

       def g, do: P.get(:a)
     end
     """, ["4 Process.get/1"]},
    {"an alias inside a branch, and not past it",
     """
     if x do
       alias Process, as: P
       P.get(:a)
     else
       P.get(:b)
     end

     P.get(:c)
     """, ["3 Process.get/1"]},
    {"a shadow that ends with its function",
     """
     defmodule A do
       def f do
         alias My.Process
         Process.get(:a)
       end

       def g, do: Process.get(:b)
     end
     """, ["7 Process.get/1"]},
    {"a shadow that ends with its clause",
     """
     case x do
       1 ->
         alias My.Process
         Process.get(:a)

       2 ->
         Process.get(:b)
     end
     """, ["7 Process.get/1"]},
    {"a call before the alias that shadows it",
     "Process.get(:a)\nalias My.Process\nProcess.get(:b)", ["1 Process.get/1"]},
    {"an import", "import Process\nput(:a, 1)\nget_keys()",
     ["2 Process.put/2", "3 Process.get_keys/0"]},
    {"an import of some", "import Process, only: [put: 2]\nput(:a, 1)\nget(:a)",
     ["2 Process.put/2"]},
    {"an import except some", "import Process, except: [put: 2]\nput(:a, 1)\nget(:a)",
     ["3 Process.get/1"]},
    {"an import of an Erlang module", "import :erlang, only: [get: 1]\nget(:a)",
     ["2 :erlang.get/1"]},
    {"an import through an alias", "alias Process, as: P\nimport P, only: [get: 1]\nget(:a)",
     ["3 Process.get/1"]},
    {"an imported name in a pipe", "import Process, only: [put: 2]\n:a |> put(1)",
     ["2 Process.put/2"]},
    {"an imported name in a capture", "import Process, only: [put: 2]\n&put/2",
     ["2 Process.put/2"]},
    {"an import inside a function, and not past it",
     """
     defmodule A do
       def f do
         import Process
         get(:a)
       end

       def g, do: get(:a)
     end
     """, ["4 Process.get/1"]},
    {"apply with a list", "apply(Process, :put, [:a, 1])", ["1 Process.put/2"]},
    {"Kernel.apply", "Kernel.apply(Process, :get, [:a])", ["1 Process.get/1"]},
    {":erlang.apply", ":erlang.apply(:erlang, :get, [:a])", ["1 :erlang.get/1"]},
    {"apply of an alias", "alias Process, as: P\napply(P, :get, [:a])", ["2 Process.get/1"]},
    {"apply with arguments that are not known", "apply(Process, :put, arguments)",
     ["1 Process.put"]},
    {"apply with a list whose length is not known", "apply(Process, :put, [:a | rest])",
     ["1 Process.put"]},
    {"apply in a pipe", "Process\n|> apply(:put, [:a, 1])", ["2 Process.put/2"]},
    {"a captured function", "&Process.put/2", ["1 Process.put/2"]},
    {"a captured function of an alias", "alias Process, as: P\nEnum.each(x, &P.delete/1)",
     ["2 Process.delete/1"]},
    {"a captured function of :erlang", "&:erlang.get/1", ["1 :erlang.get/1"]},
    {"a captured call", "Enum.map(x, &Process.put(&1, 2))", ["1 Process.put/2"]},
    {"a captured apply", "&apply(Process, :put, &1)", ["1 Process.put"]},
    {"Function.capture", "Function.capture(Process, :put, 2)", ["1 Process.put/2"]},
    {":erlang.make_fun", ":erlang.make_fun(:erlang, :get, 1)", ["1 :erlang.get/1"]},
    {"a pipe, on the call's own line", ":a\n|> to_string()\n|> Process.put(1)",
     ["3 Process.put/2"]},
    {"a pipe into a name without parentheses", ":a |> Process.get", ["1 Process.get/1"]},
    {"a call at the start of a pipe", "Process.get(:a)\n|> inspect()", ["1 Process.get/1"]},
    {"a call among the arguments of a pipe", "x\n|> foo(Process.get(:a))", ["2 Process.get/1"]},
    {"calls within calls", "Process.put(:a, Process.get(:b))",
     ["1 Process.put/2", "1 Process.get/1"]},
    {"inside quote", "quote do\n  Process.put(:a, 1)\nend", ["2 Process.put/2"]},
    {"inside quote, by an alias outside", "alias Process, as: P\nquote do: P.get(:a)",
     ["2 Process.get/1"]},
    {"inside unquote", "quote do\n  foo(unquote(Process.get(:a)))\nend", ["2 Process.get/1"]},
    {"a module by unquote of a literal", "quote do: unquote(Process).get(:a)",
     ["1 Process.get/1"]},
    {"inside a macro's __using__",
     """
     defmodule A do
       defmacro __using__(_) do
         quote do
           def f, do: Process.get(:a)
         end
       end
     end
     """, ["4 Process.get/1"]},
    {"inside a string", ~S|"#{Process.get(:a)}"|, ["1 Process.get/1"]},
    {"inside a sigil", ~S|~s(#{Process.get(:a)})|, ["1 Process.get/1"]},
    {"a default argument", "defmodule A do\n  def f(x \\\\ Process.get(:a)), do: x\nend",
     ["2 Process.get/1"]},
    {"a module attribute's value", "defmodule A do\n  @a Process.get(:a)\nend",
     ["2 Process.get/1"]},
    {"in a map, a tuple, a struct, a binary and a keyword list",
     """
     %{a: Process.get(1)}
     {Process.get(2), 3, 4}
     %A{b: Process.get(3)}
     <<Process.get(4)::8>>
     [a: Process.get(5)]
     """, for(line <- 1..5, do: "#{line} Process.get/1")},
    {"in every kind of block",
     """
     fn -> Process.get(1) end
     for x <- Process.get(2), do: x
     with {:ok, x} <- Process.get(3), do: x
     try do
       Process.get(5)
     rescue
       _ -> Process.get(7)
     after
       Process.get(9)
     end
     receive do
       x when x > 1 -> Process.get(12)
     after
       10 -> Process.get(14)
     end
     cond do
       Process.get(17) -> 1
     end
     """, for(line <- [1, 2, 3, 5, 7, 9, 12, 14, 17], do: "#{line} Process.get/1")},
    {"in a guard's default and a private macro",
     "defmodule A do\n  defmacrop m(x) when x > 1, do: Process.get(x)\nend", ["2 Process.get/1"]},
    {"in a protocol's implementation",
     "defimpl P, for: T do\n  def f(_), do: Process.get(:a)\nend", ["2 Process.get/1"]},
    {"defdelegate", "defmodule A do\n  defdelegate put(key, value), to: Process\nend",
     ["2 Process.put/2"]},
    {"defdelegate by another name",
     "defmodule A do\n  defdelegate all(), to: :erlang, as: :get\nend", ["2 :erlang.get/0"]},
    {"after a module of the same name at the top",
     "defmodule My.Process do\nend\nProcess.get(:a)", ["3 Process.get/1"]},
    {"after a nested module has ended",
     """
     defmodule A do
       defmodule Process do
       end
     end

     Process.get(:a)
     """, ["6 Process.get/1"]}
  ]

  clean = [
    {"other functions of Process and :erlang",
     "Process.send_after(self(), :a, 1)\nProcess.info(self())\n:erlang.node()\n:erlang.send(a, b)"},
    {"the same names in other modules",
     "Map.put(m, :a, 1)\nMap.get(m, :a)\n:ets.delete(t)\nKeyword.get_keys(k)\n:persistent_term.get(:a)"},
    {"an alias that shadows it", "alias My.Process\nProcess.put(:a, 1)"},
    {"an alias that shadows it among others", "alias My.{Other, Process}\nProcess.put(:a, 1)"},
    {"an alias under its name", "alias My.Dictionary, as: Process\nProcess.put(:a, 1)"},
    {"an alias of the module at hand",
     "defmodule My.Process do\n  alias __MODULE__\n  def f, do: Process.get(:a)\nend"},
    {"an alias below the module at hand",
     "defmodule My do\n  alias __MODULE__.Process\n  def f, do: Process.get(:a)\nend"},
    {"an alias that only the compiler knows", "alias unquote(x), as: Process\nProcess.get(:a)"},
    {"a longer name", "My.Process.put(:a, 1)\nProcess.Other.put(:a, 1)"},
    {"a name relative to the module",
     "defmodule My do\n  def f, do: __MODULE__.Process.put(:a, 1)\nend"},
    {"the module at hand", "defmodule My do\n  def f, do: __MODULE__.put(:a, 1)\nend"},
    {"an absolute name that is also an alias", "alias Process, as: P\nElixir.P.put(:a, 1)"},
    {"a module nested in the one at hand",
     """
     defmodule My do
       defmodule Process do
         def put(a, b), do: {a, b}
       end

       def f, do: Process.put(:a, 1)
     end
     """},
    {"a protocol nested in the module at hand",
     """
     defmodule My do
       defprotocol Process do
         def get(x)
       end

       def f, do: Process.get(:a)
     end
     """},
    {"an alias after it has been replaced",
     "alias Process, as: P\nalias Map, as: P\nP.get(m, :a)"},
    {"local functions of the same names",
     """
     defmodule A do
       def put(a, b), do: {a, b}
       def get(a) when is_atom(a), do: put(a, get_keys())
       defp get_keys, do: []
       defp delete(a), do: &get/1
     end
     """},
    {"definitions beside an import",
     "defmodule A do\n  import Process, except: [put: 2, get: 1]\n  def put(a, b), do: {a, b}\n  def get(a), do: put(a, 1)\nend"},
    {"an import of none", "import Process, only: []\nput(:a, 1)"},
    {"an import of macros", "import Process, only: :macros\nput(:a, 1)"},
    {"an import narrowed later",
     "import Process, only: [get: 1, put: 2]\nimport Process, except: [put: 2]\nput(:a, 1)"},
    {"an import of other functions", "import Process, only: [send_after: 3]\nput(:a, 1)"},
    {"a name in another arity than the imported", "import Process\nput(:a)\nput(:a, 1, 2)"},
    {"variables of the same names", "import Process\nget = 1\nput = get\n{put, get}"},
    {"typespecs",
     """
     defmodule A do
       import Process
       @type get(a) :: a
       @spec put(get(atom), Process.get()) :: :ok
       @callback delete(term) :: term
       @put 1
       def f, do: @put
     end
     """},
    {"keyword keys, atoms and map fields",
     "import Process\n[put: 1, get: 2]\n:put\nx.put\nx.get"},
    {"strings, sigils, comments and documentation",
     ~S'''
     # Process.put(:a, 1)
     "Process.put(:a, 1)"
     ~S[Process.put(:a, 1)]
     @doc """
         Process.put(:a, 1)
     """
     '''},
    {"apply of other modules and functions",
     "apply(Map, :put, [m, :a, 1])\napply(Process, :alive?, [pid])\napply(f, [Process, :put])"},
    {"an apply that is not Kernel's",
     "import Kernel, except: [apply: 3]\napply(Process, :put, [:a, 1])"},
    {"an apply of the module at hand",
     "defmodule A do\n  def f, do: My.apply(Process, :put, [:a, 1])\nend"},
    {"what is known only at run time",
     "module.put(:a, 1)\napply(module, :put, [:a])\napply(Process, f, [])"},
    {"calls that apply something else",
     "spawn(Process, :alive?, [pid])\nTask.async(My.Process, :put, [:a])\n" <>
       "My.spawn(Process, :put, [:a, 1])\n:rpc.call(Process, :put)"},
    {"data that names a call", "{Process, :put, [:a, 1]}"},
    {"a delegate to another module", "defmodule A do\n  defdelegate put(a, b, c), to: Map\nend"},
    {"a captured argument beside a division", "&(&1 / 2)"},
    {"a struct and an alias by themselves", "%Process{}\nProcess\nalias Process, as: P\nP"},
    {"an empty file", ""},
    {"a file of comments", "# nothing\n"}
  ]

  for {name, source, calls} <- found do
    test "finds #{name}" do
      assert calls(unquote(source)) == unquote(calls)
    end
  end

  for {name, source} <- clean do
    test "accepts #{name}" do
      assert calls(unquote(source)) == []
    end
  end

  defp calls(source) do
    assert {:ok, findings} = Foundation.Audit.scan(source, "a.ex")
    Enum.map(findings, &"#{&1.line} #{&1.call}")
  end
end
