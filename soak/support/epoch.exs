defmodule Soak.Epoch do
  @moduledoc false
  # Losses on purpose: an orderly stop ends a table, and the model must know about it.
  #
  # A domain's epoch is even while the domain is up, and odd while it is stopped and started. An
  # observation from an epoch that has ended meanwhile is not judged.

  @pause_ms 1

  @doc "Creates the domains, each at epoch 0."
  def open(domains) do
    for domain <- domains, do: :persistent_term.put({__MODULE__, domain}, :atomics.new(1, []))
    :ok
  end

  def now(domain), do: :atomics.get(cell(domain), 1)

  @doc "Runs `fun`, which destroys and rebuilds the contents of the domains."
  def change(domains, fun) do
    for domain <- domains, do: :atomics.add(cell(domain), 1, 1)
    fun.()
  after
    for domain <- domains, do: :atomics.add(cell(domain), 1, 1)
  end

  @doc """
  Runs `fun` with the current epoch and returns `{:ok, result}`. Returns `:unjudged` if the epoch
  ended meanwhile, even if `fun` raised.
  """
  def judge(domain, fun) do
    case now(domain) do
      epoch when rem(epoch, 2) == 1 ->
        Process.sleep(@pause_ms)
        :unjudged

      epoch ->
        result = attempt(fn -> fun.(epoch) end)
        if now(domain) == epoch, do: deliver(result), else: :unjudged
    end
  end

  defp attempt(fun) do
    {:ok, fun.()}
  catch
    kind, reason -> {:caught, kind, reason, __STACKTRACE__}
  end

  defp deliver({:ok, _result} = ok), do: ok
  defp deliver({:caught, kind, reason, stack}), do: :erlang.raise(kind, reason, stack)

  defp cell(domain), do: :persistent_term.get({__MODULE__, domain})
end
