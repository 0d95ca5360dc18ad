defmodule Soak.Epoch do
  @moduledoc false
  # What is lost by order: an orderly stop takes a table with it, and the model must know.
  #
  # A domain's epoch is even while it stands and odd while it is being stopped and started. What was
  # seen in an epoch that has ended meanwhile is not judged.

  @pause_ms 1

  @doc "Makes the domains, all at 0."
  def open(domains) do
    for domain <- domains, do: :persistent_term.put({__MODULE__, domain}, :atomics.new(1, []))
    :ok
  end

  def now(domain), do: :atomics.get(cell(domain), 1)

  @doc "Runs `fun`, which destroys and makes anew what is in the domains."
  def change(domains, fun) do
    for domain <- domains, do: :atomics.add(cell(domain), 1, 1)
    fun.()
  after
    for domain <- domains, do: :atomics.add(cell(domain), 1, 1)
  end

  @doc """
  Runs `fun` with the epoch: `{:ok, result}`, or `:unjudged` if the epoch ended meanwhile, whatever
  `fun` found or raised.
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
