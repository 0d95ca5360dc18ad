defmodule Foundation.Alone do
  @moduledoc """
  Runs a function of a test module in a VM where nothing else runs.

  The library counts for the whole VM. In the VM of the tests, resources of other tests go only when
  they are collected, and ExUnit keeps the contexts of tests for a while. So a test that compares
  counts needs a VM of its own.
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
  Returns what `fun` returns in a new VM, where the application runs with these settings. Raises
  what it raises.
  """
  @spec alone(keyword, (() -> result)) :: result when result: term
  def alone(settings \\ [], fun) when is_function(fun, 0) do
    {:module, module} = :erlang.fun_info(fun, :module)
    # ExUnit may run an async module as soon as it is compiled, before this module knows about it.
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

  @doc "The number of live resources in the library, by kind."
  @spec counts() :: map
  def counts, do: Foundation.Native.live_counts()
end
