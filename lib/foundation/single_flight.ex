defmodule Foundation.SingleFlight do
  @moduledoc false
  # Runs a function once for all callers that ask for the same key meanwhile.
  #
  # The first caller runs its function, in its own process. The others wait, and get the outcome.
  # If the first one dies, the next one runs its own function at once. The queue is that of
  # `Foundation.Registry.Locks`, so no outcome is lost when its server is killed.

  alias Foundation.Registry.Locks

  @type outcome :: {:ok, term} | {:error, term}

  @doc """
  Returns the outcome of `fun`, run here or in the process that came first.

  A raise, throw or exit of `fun` goes to its own caller; the others get it as `{:error, reason}`.
  Raises `ArgumentError` in a process that runs the function of the same key, which would wait for
  itself.
  """
  @spec run(term, term, (() -> outcome)) :: outcome
  def run(scope, key, fun) do
    ticket = Locks.ticket()

    case Locks.join(ticket, {__MODULE__, scope, key}) do
      :ok ->
        lead(ticket, fun)

      {:outcome, outcome} ->
        outcome

      :holder ->
        raise ArgumentError,
              "the function for key #{inspect(key)} of #{inspect(scope)} asks for that key " <>
                "itself, and would wait for its own end"
    end
  end

  defp lead(ticket, fun) do
    outcome = attempt(ticket, fun)
    :ok = Locks.finish(ticket, outcome)
    outcome
  end

  defp attempt(ticket, fun) do
    fun.()
  catch
    kind, reason ->
      :ok = Locks.finish(ticket, {:error, shared(kind, reason, __STACKTRACE__)})
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp shared(:error, reason, stacktrace), do: Exception.normalize(:error, reason, stacktrace)
  defp shared(_throw_or_exit, reason, _stacktrace), do: reason
end
