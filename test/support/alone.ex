defmodule Foundation.Alone do
  @moduledoc """
  Runs a function of a test module in a VM where nothing else is.

  What the library counts is the whole library's. In the VM of the tests what others had goes when it is
  collected, and ExUnit keeps the contexts of tests for a while: so whoever compares a count with one
  from before does that alone.
  """

  import Foundation.Eventually

  alias Foundation.Peer

  @timeout_ms 60_000

  defmacro __using__(_options) do
    quote do
      # Test modules are in no file that another VM could load.
      @after_compile Foundation.Alone
      import Foundation.Alone
    end
  end

  @doc false
  def __after_compile__(env, bytecode),
    do: :persistent_term.put({__MODULE__, env.module}, bytecode)

  @doc """
  What `fun` gives, in a VM with the application started, with these settings. What it raises is raised here.
  """
  @spec alone(keyword, (() -> result)) :: result when result: term
  def alone(settings \\ [], fun) when is_function(fun, 0) do
    {:module, module} = :erlang.fun_info(fun, :module)
    # ExUnit runs an async module as soon as it is compiled, which may be before it is noted here.
    bytecode = eventually(fn -> :persistent_term.get({__MODULE__, module}, nil) end)
    peer = Peer.start_alone()

    try do
      {:module, ^module} = :peer.call(peer, :code, :load_binary, [module, ~c"alone", bytecode])
      :ok = :peer.call(peer, Application, :put_all_env, [[foundation: settings]])
      {:ok, _started} = :peer.call(peer, Application, :ensure_all_started, [:foundation])
      :peer.call(peer, :erlang, :apply, [fun, []], @timeout_ms)
    after
      Peer.stop(peer)
    end
  end

  @doc "What is alive in the library."
  @spec counts() :: map
  def counts, do: Foundation.Native.live_counts()
end
